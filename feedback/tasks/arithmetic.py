"""Sums, differences and products of several digits, worked digit by digit with carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal

from didact.core.errors import RecipeError
from didact.core.ranges import Count, Share
from didact.core.seeds import seed_of
from didact.core.types import Problem
from didact.feedback.tasks.procedural import (
    Note,
    Split,
    check_settings,
    demonstrated,
    in_range,
    level_of,
    split_of,
)

Operation = Literal["+", "-", "*"]
LEVELS = range(1, 13)


@dataclass(frozen=True)
class Arithmetic:
    """`47+85`, to be worked out digit by digit; a level is the number of digits of each operand.

    The demonstration has a line per digit, lowest first: both digits and the carry, so `7+5+0=12`
    writes 2 and carries 1. A difference (never negative) borrows: `15-7-0=8`. A product multiplies
    by one digit at a time, `7*5+0=35`, sums up each partial product, `47*5=235`, and adds it to
    those before, `235+3760=3995`. The last line is `=` and the result.

    Problems are split by their operands, regardless of order where that does not matter.

    Args:
        split: which operands.
        operations: drawn with equal chances.
        levels: 1 to 12 digits, taken in turn, problem by problem.
        mix: weights by level, to draw it instead; `levels` is then not used.
        size: number of problems; low levels have few different ones.
        seed: another one gives other problems of the same split.
        wrong: share of problems whose demonstration has one wrong digit, carried on to a wrong
            end; their answer stays right, and metadata `demonstration_correct` is false.
    """

    split: Split = "train"
    operations: Sequence[Operation] = ("+", "-", "*")
    levels: Sequence[int] = (1, 2, 3, 4)
    mix: Mapping[int, float] | None = None
    size: Count = 1_000_000
    seed: int = 0
    wrong: Share = 0.0

    def __post_init__(self) -> None:
        check_settings(
            "arithmetic", self.split, self.levels, self.mix, self.size, self.wrong, list(LEVELS)
        )
        for operation in self.operations:
            if operation not in WRITE:
                raise RecipeError(
                    f"arithmetic: there is no operation '{operation}'; "
                    f"operations are {', '.join(WRITE)}."
                )
        if not self.operations:
            raise RecipeError(f"arithmetic: give at least one operation of {', '.join(WRITE)}.")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Problem:
        in_range(index, self.size, "arithmetic")
        rng = Random(seed_of("arithmetic", self.split, self.seed, index))
        level = level_of(index, self.levels, self.mix, rng)
        while True:
            operation = rng.choice(self.operations)
            left, right = _operand(level, rng), _operand(level, rng)
            if operation == "-":
                left, right = max(left, right), min(left, right)
            if split_of(operation, *sorted((left, right))) == self.split:
                return self._problem(level, left, operation, right)

    def _problem(self, level: int, left: int, operation: Operation, right: int) -> Problem:
        answer = str(_value(left, operation, right))
        question = f"{left}{operation}{right}"
        id = f"arithmetic/{self.split}/{level}/{question}"
        write = partial(demonstrate, left, operation, right)
        shown, correct = demonstrated(write, answer, "0123456789", self.wrong, self.seed, id)
        return Problem(
            id=id,
            question=f"{question}\n",
            answer=answer,
            demonstrations=(shown,),
            metadata={
                "level": level,
                "family": "arithmetic",
                "operation": operation,
                "demonstration_correct": correct,
            },
        )


def _operand(digits: int, rng: Random) -> int:
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _value(left: int, operation: Operation, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


def demonstrate(
    left: int, operation: Operation, right: int, note: Note = lambda result: result
) -> str:
    """Every step on a line of its own, and `=` with the result on the last."""
    lines: list[str] = []

    def step(work: str, value: int) -> int:
        noted = int(note(str(value)))
        lines.append(f"{work}={noted}")
        return noted

    result = WRITE[operation](left, right, step)
    return "\n".join([*lines, f"={result}"])


Step = Callable[[str, int], int]
"""Notes a line, the work and its value; gives back the value to go on with."""


def _sum(left: int, right: int, step: Step) -> int:
    width = len(str(max(left, right)))
    result: int = 0
    carry = 0
    for place, (a, b) in enumerate(zip(_digits(left, width), _digits(right, width), strict=True)):
        carry, digit = divmod(step(f"{a}+{b}+{carry}", a + b + carry), 10)
        result += digit * 10**place
    total: int = result + carry * 10**width
    return total


def _difference(left: int, right: int, step: Step) -> int:
    width = len(str(left))
    result: int = 0
    borrow = 0
    for place, (a, b) in enumerate(zip(_digits(left, width), _digits(right, width), strict=True)):
        lent = 10 if a < b + borrow else 0
        digit = step(f"{a + lent}-{b}-{borrow}", a + lent - b - borrow)
        borrow = lent // 10
        result += digit * 10**place
    return result


def _product(left: int, right: int, step: Step) -> int:
    total: int = 0
    for shift, factor in enumerate(_digits(right, len(str(right)))):
        part: int = 0
        carry = 0
        for place, digit in enumerate(_digits(left, len(str(left)))):
            carry, low = divmod(step(f"{digit}*{factor}+{carry}", digit * factor + carry), 10)
            part += low * 10**place
        part += carry * 10 ** len(str(left))
        part = step(f"{left}*{factor * 10**shift}", part * 10**shift)
        total = step(f"{total}+{part}", total + part) if shift else part
    return total


def _digits(number: int, width: int) -> list[int]:
    """Decimal digits, lowest first."""
    return [number // 10**place % 10 for place in range(width)]


WRITE: Mapping[Operation, Callable[[int, int, Step], int]] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
}
"""How each operation is worked out."""
