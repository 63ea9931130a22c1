"""Exact verifiers of the procedural families: plain functions of one trajectory, 1.0 or 0.0.

An answer that the length limit cut off is wrong, whatever it says.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from didact.core.errors import RewardError, unknown
from didact.core.types import Trajectory

OPERATORS = str.maketrans(
    {"\N{MULTIPLICATION SIGN}": "*", "\N{DIVISION SIGN}": "/", "\N{MINUS SIGN}": "-"}
)

LONGEST_EXPRESSION = 200
"""Characters; a longer expression is wrong. Keeps hostile nesting away from the parser."""


def letters_answer(trajectory: Trajectory) -> float:
    """1.0 if what follows the last `=` is exactly the answer and the response ended by itself."""
    return _after_equals(trajectory)


def arithmetic_answer(trajectory: Trajectory) -> float:
    """1.0 if what follows the last `=` is exactly the answer and the response ended by itself."""
    return _after_equals(trajectory)


def countdown_answer(
    trajectory: Trajectory, *, numbers: str = "numbers", target: str = "target"
) -> float:
    """1.0 if the expression uses every given number exactly once and equals the target exactly.

    The expression is the content of the last `<answer>` block, or else the last line that is not
    empty. It may hold whole numbers, + - * / (also × ÷ −) and parentheses, and go on with `=` and
    sides that are equal too. It is evaluated in fractions.

    Args:
        numbers: metadata key of the given numbers.
        target: metadata key of the target.
    """
    given, goal = _countdown(trajectory, numbers, target)
    if trajectory.truncated:
        return 0.0
    return float(reaches(_expression(trajectory.text), given, goal))


def countdown_tagged(
    trajectory: Trajectory,
    *,
    formed: float = 0.1,
    numbers: str = "numbers",
    target: str = "target",
) -> float:
    """Countdown with a reward for form: 0 if malformed, `formed` if well-formed but wrong, else 1.

    Well-formed is exactly one `<think>` block that is not empty and exactly one `<answer>` block;
    an `=` in the answer makes it wrong (jchy20/how-much-backtrack @df310b4f,
    verl/utils/reward_score/countdown.py, which also asks for the chat header of the assistant: that
    is part of our prompt, not of the response).

    Args:
        formed: reward of a well-formed wrong answer.
        numbers: metadata key of the given numbers.
        target: metadata key of the target.
    """
    given, goal = _countdown(trajectory, numbers, target)
    thoughts, answers = _blocks(trajectory.text, "think"), _blocks(trajectory.text, "answer")
    well_formed = len(thoughts) == 1 and len(answers) == 1 and bool(thoughts[0].strip())
    if trajectory.truncated or not well_formed:
        return 0.0
    right = "=" not in answers[0] and reaches(answers[0], given, goal)
    return 1.0 if right else formed


def compositions_answer(
    trajectory: Trajectory, *, key: str = "output", malformed: float = 0.0
) -> float:
    """1.0 if the last JSON object of the response holds exactly the answer under `key`, else 0.0.

    Args:
        key: where in the object.
        malformed: reward if there is no object with that key, or the response was cut off; the
            authors' is -1 (PRIME-RL/RL-Compositionality @97c9f0a2,
            verl/utils/reward_score/codeio.py).
    """
    said = _last_object(trajectory.text)
    if trajectory.truncated or said is None or key not in said:
        return malformed
    return float(said[key] == trajectory.prompt.answer)


def _last_object(text: str) -> dict[str, object] | None:
    """The last JSON object of a text that is inside no other."""
    decoder = json.JSONDecoder()
    found: dict[str, object] | None = None
    at = text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        at = text.find("{", end)
    return found


def procedural_answer(trajectory: Trajectory) -> float:
    """The exact verifier of the problem's own family, for mixtures of procedural tasks."""
    family = str(_metadata(trajectory, "family"))
    if family not in VERIFIERS:
        raise RewardError(
            f"problem '{trajectory.prompt.id}': {unknown('procedural family', family, VERIFIERS)}"
        )
    return VERIFIERS[family](trajectory)


VERIFIERS: Mapping[str, Callable[[Trajectory], float]] = {
    "letters": letters_answer,
    "arithmetic": arithmetic_answer,
    "countdown": countdown_answer,
    "compositions": compositions_answer,
}


def reaches(expression: str, numbers: Sequence[int], target: int) -> bool:
    """Whether an expression uses every number exactly once and equals the target.

    It may be continued with `=`; then every further side must equal the target too.
    """
    first, *further = expression.translate(OPERATORS).split("=")
    value, used = _value(first)
    if value != target or Counter(used) != Counter(numbers):
        return False
    return all(_value(side)[0] == target for side in further)


def _value(text: str) -> tuple[Fraction | None, list[int]]:
    """The exact value of an expression, None if it has none, and the numbers in it."""
    text = text.strip()
    used: list[int] = []
    if len(text) > LONGEST_EXPRESSION or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        return None, used
    try:
        return _evaluate(ast.parse(text, mode="eval").body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None, used


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    """The value of a tree, exactly; adds the numbers in it to `used`."""
    match node:
        case ast.Constant(value=int(number)):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, used)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left, used), _evaluate(right, used)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError(f"'{ast.unparse(node)}' is not allowed")


def _after_equals(trajectory: Trajectory) -> float:
    answer = trajectory.prompt.answer
    if not isinstance(answer, str):
        raise RewardError(f"problem '{trajectory.prompt.id}' has no answer in text: {answer!r}.")
    _, equals, said = trajectory.text.rpartition("=")
    return float(bool(equals) and said == answer and not trajectory.truncated)


def _expression(text: str) -> str:
    tagged = _blocks(text, "answer")
    if tagged:
        return tagged[-1]
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _blocks(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)


def _countdown(trajectory: Trajectory, numbers: str, target: str) -> tuple[list[int], int]:
    given, goal = _metadata(trajectory, numbers), _metadata(trajectory, target)
    if not isinstance(given, list | tuple) or not isinstance(goal, int):
        raise RewardError(
            f"problem '{trajectory.prompt.id}': countdown needs a list of whole numbers and a "
            f"target, but '{numbers}' is {given!r} and '{target}' is {goal!r}."
        )
    return list(given), goal


def _metadata(trajectory: Trajectory, key: str) -> object:
    metadata = trajectory.prompt.problem.metadata
    if key not in metadata:
        raise RewardError(f"problem '{trajectory.prompt.id}': {unknown('metadata', key, metadata)}")
    return metadata[key]
