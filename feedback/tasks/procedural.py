"""What the procedural families share: splits, levels, and demonstrations with one slip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal

from didact.core.errors import RecipeError, unknown
from didact.core.seeds import seed_of

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Note = Callable[[str], str]
"""Called with each result that a demonstration writes down; gives back what is written."""


def check_settings(
    family: str,
    split: str,
    levels: Sequence[int],
    mix: Mapping[int, float] | None,
    size: int,
    wrong: float,
    known: Sequence[int],
) -> None:
    """Refuse settings of a family that mean nothing.

    Raises:
        RecipeError: names the setting, what was given and what is possible.
    """
    if split not in SPLITS:
        raise RecipeError(f"{family}: {unknown('split', split, SPLITS)}")
    wanted = levels if mix is None else list(mix)
    if not wanted:
        raise RecipeError(f"{family}: give at least one of the levels {_listed(known)}.")
    for level in wanted:
        if level not in known:
            raise RecipeError(f"{family}: there is no level {level}; levels are {_listed(known)}.")
    if mix is not None and (min(mix.values()) < 0 or sum(mix.values()) <= 0):
        raise RecipeError(f"{family}: 'mix' needs weights >= 0 with a positive sum, not {mix}.")
    if size < 1:
        raise RecipeError(f"{family}: 'size' is {size}; it must be at least 1.")
    if not 0 <= wrong <= 1:
        raise RecipeError(f"{family}: 'wrong' is {wrong}; it is a share, from 0 to 1.")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def level_of(
    index: int, levels: Sequence[int], mix: Mapping[int, float] | None, rng: Random
) -> int:
    """The level of the problem at an index: in turn, or drawn if there is a mix."""
    if mix is None:
        return levels[index % len(levels)]
    return rng.choices(list(mix), weights=list(mix.values()))[0]


def in_range(index: int, size: int, family: str) -> int:
    """The index itself; IndexError if there is no such problem, so that iteration ends."""
    if not 0 <= index < size:
        raise IndexError(f"{family}: there is no problem {index}; the task has {size}.")
    return index


def split_of(*content: object) -> Split:
    """The split that a problem belongs to: a fifth test, a fifth validation, by its content.

    Depends on nothing but the content, so no problem is ever in two splits.
    """
    return split_by(seed_of("split", *content))


def split_by(residue: int) -> Split:
    """0 mod 5 is test, 1 mod 5 validation, the rest train."""
    return "test" if residue % 5 == 0 else "validation" if residue % 5 == 1 else "train"


def demonstrated(
    write: Callable[[Note], str], answer: str, alphabet: str, wrong: float, *names: object
) -> tuple[str, bool]:
    """A demonstration that ends in `=answer`, and whether it is right: a share of them is wrong.

    In a wrong one, one character of one result is another one, and that is carried on. Slips that
    come out right in the end are drawn again.

    Args:
        write: writes the demonstration; calls its argument with every result it notes.
        alphabet: what a slip may write.
        wrong: the share.
        names: seed of what is drawn.
    """
    rng = Random(seed_of("slip", *names)) if wrong else None
    if rng is None or rng.random() >= wrong:
        return write(lambda result: result), True
    noted: list[str] = []
    write(lambda result: noted.append(result) or result)  # type: ignore[func-returns-value]
    while True:
        text = write(_slipping(rng.randrange(len(noted)), alphabet, rng))
        if text.rpartition("=")[2] != answer:
            return text, False


def _slipping(step: int, alphabet: str, rng: Random) -> Note:
    """Copies every result but the one at `step`, of which it changes a character."""
    seen = 0

    def note(result: str) -> str:
        nonlocal seen
        seen += 1
        if seen != step + 1:
            return result
        at = rng.choice([at for at, letter in enumerate(result) if letter in alphabet])
        other = rng.choice([letter for letter in alphabet if letter != result[at]])
        return result[:at] + other + result[at + 1 :]

    return note
