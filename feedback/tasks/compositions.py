"""Compositions f(g(x)) of string functions whose names say nothing; test problems use others."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from didact.core.errors import DataError, RecipeError
from didact.core.ranges import Count
from didact.core.seeds import seed_of
from didact.core.types import Problem
from didact.feedback.tasks.atoms import ATOMS, Atom, word
from didact.feedback.tasks.procedural import Split, check_settings, in_range, level_of, split_of

LEVELS = range(1, 9)
LONGEST = 200
"""Characters of a result; expressions that make more are drawn again."""
BUILTINS = ("upper", "lower", "capitalize", "swapcase")
QUESTION = (
    "{functions}def main_solution(x):\n    return {expression}\n\n"
    'What does main_solution("{input}") return? Work it out by hand, and end with a JSON object '
    'that holds the resulting string: {{"output": "…"}}'
)


@dataclass(frozen=True)
class Compositions:
    """Predict what nested string functions return; a level is the depth of nesting.

    Expressions and inputs are drawn like those of PRIME-RL/RL-Compositionality @97c9f0a2: two
    arguments with chance 0.2, else one; x or a literal at the bottom. Training and validation use
    13 functions, test the other 12; called `func_0` to `func_24`, they do not tell what they do.
    Problems are also split by expression and input, because some hold no function at all. The
    demonstration has a line per call, innermost first, and ends in the JSON object.

    Departures: `described` tells what the functions do in words, where the first stage of the
    authors shows their source; results above 200 characters are drawn again; our own prompt.

    Args:
        split: which functions and problems.
        levels: 1 to 8, taken in turn, problem by problem.
        mix: weights by level, to draw it instead; `levels` is then not used.
        described: the question explains the functions in it.
        template: the question, of `{functions}`, `{expression}` and `{input}`.
        size: number of problems.
        seed: another one gives other problems of the same split.
    """

    split: Split = "train"
    levels: Sequence[int] = (1, 2)
    mix: Mapping[int, float] | None = None
    described: bool = False
    template: str = QUESTION
    size: Count = 1_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            "compositions", self.split, self.levels, self.mix, self.size, 0.0, list(LEVELS)
        )
        try:
            self.template.format(functions="", expression="", input="")
        except (KeyError, IndexError, ValueError) as error:
            raise RecipeError(
                f"compositions: the template cannot be filled: {error!r}. It may name "
                "{functions}, {expression} and {input}; write other braces twice."
            ) from None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Problem:
        in_range(index, self.size, "compositions")
        rng = Random(seed_of("compositions", self.split, self.seed, index))
        level = level_of(index, self.levels, self.mix, rng)
        while True:
            expression = _draw(level, self.split == "test", rng)
            given = str(word(3, 10)(rng))
            if split_of(expression, given) == self.split:
                steps: list[str] = []
                output = run(expression, given, steps)
                if len(output) <= LONGEST and max(map(len, steps), default=0) <= 2 * LONGEST:
                    return self._problem(level, expression, given, output, steps)

    def _problem(
        self, level: int, expression: str, given: str, output: str, steps: Sequence[str]
    ) -> Problem:
        final = json.dumps({"output": output}, ensure_ascii=False)
        return Problem(
            id=f"compositions/{self.split}/{level}/{expression}:{given}",
            question=self.template.format(
                functions=_described(expression) if self.described else "",
                expression=expression,
                input=given,
            ),
            answer=output,
            demonstrations=("\n".join([*steps, final]),),
            metadata={"level": level, "family": "compositions", "demonstration_correct": True},
        )


def run(expression: str, x: str, steps: list[str] | None = None) -> str:
    """The value of an expression of `func_k`, `+`, literals, x and the methods of strings we use.

    Args:
        steps: gets a line per call, innermost first.

    Raises:
        DataError: the expression holds anything else.
    """
    return str(_value(ast.parse(expression, mode="eval").body, x, [] if steps is None else steps))


def _value(node: ast.expr, x: str, steps: list[str]) -> str | int:
    match node:
        case ast.Name(id="x"):
            return x
        case ast.Constant(value=str() | int() as constant):
            return constant
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _value(left, x, steps), _value(right, x, steps)
            return _noted(f"{first!r} + {second!r}", f"{first}{second}", steps)
        case ast.Call(func=ast.Name(id=name), args=arguments) if _number(name) is not None:
            values = [_value(argument, x, steps) for argument in arguments]
            called = f"{name}({', '.join(map(repr, values))})"
            return _noted(called, ATOMS[_number(name) or 0].apply(*values), steps)
        case ast.Call(func=ast.Attribute(value=inner, attr=method), args=[]) if method in BUILTINS:
            value = _value(inner, x, steps)
            return _noted(f"{value!r}.{method}()", getattr(str(value), method)(), steps)
    raise DataError(f"compositions: '{ast.unparse(node)}' is not allowed in an expression.")


def _noted(work: str, value: str, steps: list[str]) -> str:
    steps.append(f"{work} = {value!r}")
    return value


def _number(name: str) -> int | None:
    digits = name.removeprefix("func_")
    return int(digits) if digits.isdigit() and int(digits) < len(ATOMS) else None


def _draw(depth: int, held_out: bool, rng: Random) -> str:
    if depth == 0:
        return "x" if rng.random() < 0.5 else repr(word(3, 6)(rng))
    here = [(k, atom) for k, atom in enumerate(ATOMS) if atom.held_out == held_out]
    if rng.random() < 0.2:
        first, second = _draw(depth - 1, held_out, rng), _draw(depth - 1, held_out, rng)
        both = next(k for k, atom in here if atom.binary)
        return f"({first} + {second})" if rng.random() < 0.5 else f"func_{both}({first}, {second})"
    inner = _draw(depth - 1, held_out, rng)
    if rng.random() < 0.02:
        return f"{inner}.{rng.choice(BUILTINS)}()"
    with_argument = rng.random() < 0.5
    unary = [(k, a) for k, a in here if not a.binary and (a.argument is not None) == with_argument]
    number, atom = rng.choice(unary)
    return f"func_{number}({inner}{_argument(atom, rng)})"


def _argument(atom: Atom, rng: Random) -> str:
    return "" if atom.argument is None else f", {atom.argument(rng)!r}"


def _described(expression: str) -> str:
    names = {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}
    numbers = sorted(number for name in names if (number := _number(name)) is not None)
    return "".join(f"# func_{number} {ATOMS[number].says}\n" for number in numbers)
