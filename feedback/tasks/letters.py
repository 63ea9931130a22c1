"""Chains of letter functions, R L X P F N applied left to right to five letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from random import Random

from didact.core.ranges import Count, Share
from didact.core.seeds import seed_of
from didact.core.types import Problem
from didact.feedback.permutation import permuted
from didact.feedback.tasks.procedural import (
    Note,
    Split,
    check_settings,
    demonstrated,
    in_range,
    level_of,
    split_by,
)

ALPHABET = "abcdefgh"
NEXT = str.maketrans(ALPHABET, ALPHABET[1:] + ALPHABET[0])
LENGTH = 5

FUNCTIONS: Mapping[str, Callable[[str], str]] = {
    "R": lambda s: s[::-1],
    "L": lambda s: s[1:] + s[0],
    "X": lambda s: s[-1] + s[1:-1] + s[0],
    "P": lambda s: "".join(s[i : i + 2][::-1] for i in range(0, len(s), 2)),
    "F": lambda s: s[:-1] + s[0],
    "N": lambda s: s.translate(NEXT),
}
"""R reverse, L rotate left by one, X swap first and last, P swap neighbours pairwise, F last letter
becomes the first, N every letter becomes the next (h becomes a)."""

KNOWN = "RLXPF"
NEW = "N"
SHAPES: Mapping[int, tuple[int, bool]] = {
    1: (1, False),
    2: (2, False),
    3: (3, False),
    4: (2, True),
    5: (3, True),
}
"""Per level: how many functions, and whether exactly one of them is the new one."""

TRIES = 50
"""Draws of functions before another start is taken (`aaaaa`, say, fits no chain of known ones)."""


@dataclass(frozen=True)
class Letters:
    """Apply named letter functions, left to right, to five letters: `RLX:abcde`.

    Levels 1 to 3 chain that many of the functions R, L, X, P, F. Level 4 chains two, exactly one
    of them N, which lower levels never show. Level 5 chains three with one N: out of distribution
    for whoever trained on the others. Functions are drawn again until the start and all results
    differ from one another, so that stopping early is never right. A demonstration has a line
    per function, `R=edcba`.

    Start strings are split: sum((i + 1) * letter number) mod 5 is 0 in test, 1 in validation. Every
    start string of a split is used once before any is used again.

    Args:
        split: which start strings.
        levels: taken in turn, problem by problem.
        mix: weights by level, to draw it instead; `levels` is then not used.
        size: number of problems.
        seed: another one gives other problems of the same split.
        wrong: share of problems whose demonstration has one letter slip, carried on to a wrong end;
            their answer stays right, and metadata `demonstration_correct` is false.
    """

    split: Split = "train"
    levels: Sequence[int] = (1, 2, 3, 4)
    mix: Mapping[int, float] | None = None
    size: Count = 1_000_000
    seed: int = 0
    wrong: Share = 0.0

    def __post_init__(self) -> None:
        known = list(SHAPES)
        check_settings("letters", self.split, self.levels, self.mix, self.size, self.wrong, known)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Problem:
        in_range(index, self.size, "letters")
        starts = starts_of(self.split)
        epoch, place = divmod(index, len(starts))
        start = starts[permuted(place, len(starts), "starts", self.seed, epoch)]
        rng = Random(seed_of("letters", self.split, self.seed, index))
        level = level_of(index, self.levels, self.mix, rng)
        drawn = _chain(start, level, rng)
        while drawn is None:
            start = rng.choice(starts)
            drawn = _chain(start, level, rng)
        return self._problem(level, *drawn, start)

    def _problem(self, level: int, names: str, answer: str, start: str) -> Problem:
        id = f"letters/{self.split}/{level}/{names}:{start}"
        write = partial(demonstrate, names, start)
        shown, correct = demonstrated(write, answer, ALPHABET, self.wrong, self.seed, id)
        return Problem(
            id=id,
            question=f"{names}:{start}\n",
            answer=answer,
            demonstrations=(shown,),
            metadata={"level": level, "family": "letters", "demonstration_correct": correct},
        )


def demonstrate(names: str, start: str, note: Note = lambda result: result) -> str:
    """One line per function, `R=edcba`, each from what the line before noted."""
    lines = []
    string = start
    for name in names:
        string = note(FUNCTIONS[name](string))
        lines.append(f"{name}={string}")
    return "\n".join(lines)


def results(names: str, start: str) -> list[str]:
    """The string after each function."""
    out = [start]
    for name in names:
        out.append(FUNCTIONS[name](out[-1]))
    return out[1:]


def split_of_start(start: str) -> Split:
    """The split of a start string: its weighted letter sum decides."""
    return split_by(sum((i + 1) * ALPHABET.index(c) for i, c in enumerate(start)))


@cache
def starts_of(split: Split) -> tuple[str, ...]:
    """Every start string of a split, in alphabetical order."""
    every = map("".join, product(ALPHABET, repeat=LENGTH))
    return tuple(start for start in every if split_of_start(start) == split)


def _chain(start: str, level: int, rng: Random) -> tuple[str, str] | None:
    """Functions of a level under which the start and all results differ, and the last result;
    None if none were found."""
    count, with_new = SHAPES[level]
    for _ in range(TRIES):
        names = rng.choices(KNOWN, k=count)
        if with_new:
            names[rng.randrange(count)] = NEW
        made = results("".join(names), start)
        if len({start, *made}) == count + 1:
            return "".join(names), made[-1]
    return None
