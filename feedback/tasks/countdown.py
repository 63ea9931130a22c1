"""Countdown: reach a target with given numbers, each used once, and + - * /."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Annotated

from pydantic import Field

from didact.core.errors import RecipeError
from didact.core.ranges import Count, Share, Whole
from didact.core.seeds import seed_of
from didact.core.types import Problem
from didact.feedback.tasks.procedural import Split, check_settings, in_range, level_of, split_of

LEVELS = range(2, 9)
LARGEST_RESULT = 999


@dataclass(frozen=True)
class Countdown:
    """Combine the numbers with + - * /, each exactly once, to get the target: `3,7,8=13`.

    A level is how many numbers there are. Every problem is solvable: it is made from a solution
    whose steps are whole numbers from 1 to 999. The demonstration has a line per step, `3*7=21`,
    and ends in the whole expression, `(3*7)-8`. With `backtracks`, wrong attempts come first:
    each leaves the right steps at some point, misses the target, and says what it goes back to.

    Problems are split by their numbers (in any order) and target.

    Args:
        split: which problems.
        levels: 2 to 8 numbers, taken in turn, problem by problem.
        mix: weights by level, to draw it instead; `levels` is then not used.
        highest: largest number given.
        backtracks: wrong attempts shown in each demonstration, each a different one; fewer where
            a problem has not as many (the traces of jchy20/how-much-backtrack @df310b4f, whose
            code repeats one attempt instead of showing several).
        template: the question, of `{numbers}` and `{target}`.
        size: number of problems; level 2 has few different ones.
        seed: another one gives other problems of the same split.
        wrong: share of problems whose demonstration has one wrong operator, carried on to a wrong
            end; their answer stays right, and metadata `demonstration_correct` is false.
    """

    split: Split = "train"
    levels: Sequence[int] = (2, 3, 4)
    mix: Mapping[int, float] | None = None
    highest: Annotated[int, Field(ge=10)] = 20
    backtracks: Whole = 0
    template: str = "{numbers}={target}\n"
    size: Count = 1_000_000
    seed: int = 0
    wrong: Share = 0.0

    def __post_init__(self) -> None:
        check_settings(
            "countdown", self.split, self.levels, self.mix, self.size, self.wrong, list(LEVELS)
        )
        if self.highest < 10:
            raise RecipeError(f"countdown: 'highest' is {self.highest}; it must be at least 10.")
        if self.backtracks < 0:
            raise RecipeError(f"countdown: 'backtracks' is {self.backtracks}; it must be >= 0.")
        try:
            asked = self.template.format(numbers="1,2", target=3)
        except (KeyError, IndexError, ValueError) as error:
            raise RecipeError(
                f"countdown: the template {self.template!r} cannot be filled: {error!r}. "
                "It may name {numbers} and {target}; write other braces twice."
            ) from None
        if "1,2" not in asked or "3" not in asked:
            raise RecipeError("countdown: the template must name {numbers} and {target}.")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Problem:
        in_range(index, self.size, "countdown")
        rng = Random(seed_of("countdown", self.split, self.seed, index))
        level = level_of(index, self.levels, self.mix, rng)
        while True:
            numbers = [rng.randint(1, self.highest) for _ in range(level)]
            moves = _solution(numbers, rng)
            target = _end(numbers, moves)
            if target not in numbers and split_of(*sorted(numbers), target) == self.split:
                return self._problem(numbers, moves, target)

    def _problem(self, numbers: Sequence[int], moves: Moves, target: int) -> Problem:
        listed = ",".join(map(str, numbers))
        id = f"countdown/{self.split}/{len(numbers)}/{listed}={target}"
        rng = Random(seed_of("slip", self.seed, id))
        slips = rng.random() < self.wrong
        errors = error_paths(numbers, moves, rng) if slips or self.backtracks else []
        return Problem(
            id=id,
            question=self.template.format(numbers=listed, target=target),
            answer=play(numbers, moves)[-1].expression,
            demonstrations=(
                demonstrate(numbers, errors[0].moves)
                if slips
                else demonstrate(numbers, moves, errors[: self.backtracks]),
            ),
            metadata={
                "level": len(numbers),
                "family": "countdown",
                "numbers": list(numbers),
                "target": target,
                "demonstration_correct": not slips,
            },
        )


Moves = Sequence[tuple[str, int, int]]
"""Operator and two places in the list of terms, which begins with the numbers; each move adds its
result to the list."""


@dataclass(frozen=True)
class Line:
    """A move played: its work, `3*7=21`, its value, and the whole expression so far."""

    work: str
    value: int
    expression: str


@dataclass(frozen=True)
class ErrorPath:
    """A wrong attempt: the same as the solution for `right` moves, then not."""

    right: int
    moves: Moves


def play(numbers: Sequence[int], moves: Moves) -> list[Line]:
    """What each move gives.

    Raises:
        ArithmeticError: a result is negative or no whole number.
    """
    terms = [(number, str(number)) for number in numbers]
    lines: list[Line] = []
    for operator, left, right in moves:
        (a, first), (b, second) = terms[left], terms[right]
        expression = f"{_wrapped(first)}{operator}{_wrapped(second)}"
        value = _combine(operator, a, b)
        lines.append(Line(f"{a}{operator}{b}={value}", value, expression))
        terms.append((value, expression))
    return lines


def demonstrate(numbers: Sequence[int], moves: Moves, errors: Sequence[ErrorPath] = ()) -> str:
    """The moves line by line and the expression; wrong attempts on the way, early ones first."""
    solution = play(numbers, moves)
    out: list[str] = []
    shown = 0
    for error in sorted(errors, key=lambda error: error.right):
        out += [line.work for line in solution[shown : error.right]]
        attempt = play(numbers, error.moves)
        out += [line.work for line in attempt[error.right :]]
        back = f"step {error.right}" if error.right else "the start"
        out.append(f"{attempt[-1].value} is not {solution[-1].value}, back to {back}")
        shown = error.right
    return "\n".join([*out, *(line.work for line in solution[shown:]), solution[-1].expression])


def error_paths(numbers: Sequence[int], moves: Moves, rng: Random) -> list[ErrorPath]:
    """Every way to change one operator that then misses the target, in random order.

    There is always one: at the last move a+b misses unless it is what was asked or equals a*b,
    which is so for 2 and 2 only; then a*b or a-b misses.
    """
    target = _end(numbers, moves)
    out: list[ErrorPath] = []
    for at, (operator, left, right) in enumerate(moves):
        for other in [other for other in "+-*/" if other != operator]:
            changed = [*moves[:at], (other, left, right), *moves[at + 1 :]]
            try:
                end = _end(numbers, changed)
            except ArithmeticError:
                continue
            if end != target:
                out.append(ErrorPath(at, changed))
    rng.shuffle(out)
    return out


def _solution(numbers: Sequence[int], rng: Random) -> Moves:
    """Random moves that combine all numbers, every result from 1 to 999."""
    terms = list(numbers)
    free = list(range(len(numbers)))
    moves: list[tuple[str, int, int]] = []
    while len(free) > 1:
        left, right = rng.sample(free, 2)
        operators = [op for op in "+-*/" if _allowed(op, terms[left], terms[right])]
        operator = rng.choice(operators) if operators else "-"
        if not operators:
            left, right = right, left
        moves.append((operator, left, right))
        terms.append(_combine(operator, terms[left], terms[right]))
        free = [at for at in free if at not in (left, right)] + [len(terms) - 1]
    return moves


def _allowed(operator: str, a: int, b: int) -> bool:
    if operator == "/":
        return b > 1 and a % b == 0
    if operator == "-":
        return a > b
    return _combine(operator, a, b) <= LARGEST_RESULT


def _combine(operator: str, a: int, b: int) -> int:
    if operator == "/" and (b == 0 or a % b):
        raise ArithmeticError(f"{a}/{b} is not a whole number")
    if operator == "-" and a < b:
        raise ArithmeticError(f"{a}-{b} is negative")
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // (b or 1)}[operator]


def _end(numbers: Sequence[int], moves: Moves) -> int:
    return play(numbers, moves)[-1].value


def _wrapped(expression: str) -> str:
    return expression if expression.isdigit() else f"({expression})"
