"""Exact, numeric and multiple-choice match with the problem's answer: 1.0 or 0.0."""

from __future__ import annotations

from didact.core.errors import RewardError
from didact.core.ranges import NonNegative
from didact.core.types import Trajectory
from didact.rewards.extract import How, choice, final
from didact.rewards.notation import read_number, same_number


def exact_match(
    trajectory: Trajectory,
    *,
    extract: How = "auto",
    case: bool = True,
    strip: bool = True,
    complete: bool = False,
) -> float:
    """1.0 if the extracted answer is, letter for letter, the problem's answer.

    Args:
        extract: where in the response the answer stands (`rewards.extract.final`).
        case: whether upper and lower case differ.
        strip: whether white space around either is ignored.
        complete: whether a response that the length limit cut off is wrong.
    """
    wanted = answers(trajectory)
    said = final(trajectory.text, extract)
    if said is None or (complete and trajectory.truncated):
        return 0.0
    return float(_spelled(said, case, strip) in {_spelled(one, case, strip) for one in wanted})


def numeric_match(
    trajectory: Trajectory,
    *,
    extract: How = "number",
    absolute: NonNegative = 0.0,
    relative: NonNegative = 0.0,
    complete: bool = False,
) -> float:
    """1.0 if the extracted answer is a number within `max(absolute, relative |answer|)` of it.

    Numbers are compared as exact fractions; `50%` is both 50 and 1/2.

    Args:
        extract: where in the response the number stands (`rewards.extract.final`).
        absolute: greatest absolute difference.
        relative: greatest difference as a share of the answer.
        complete: whether a response that the length limit cut off is wrong.

    Raises:
        RewardError: the problem's answer is not a number.
    """
    wanted = [read_number(one) for one in answers(trajectory)]
    if None in wanted:
        raise RewardError(
            f"problem '{trajectory.prompt.id}': the answer {trajectory.prompt.answer!r} is not a "
            f"number; use exact_match or math_verify."
        )
    said = final(trajectory.text, extract)
    number = read_number(said) if said is not None else None
    if number is None or (complete and trajectory.truncated):
        return 0.0
    return float(
        any(
            same_number(number, one, absolute=absolute, relative=relative)
            for one in wanted
            if one is not None
        )
    )


def choice_match(trajectory: Trajectory, *, complete: bool = False) -> float:
    """1.0 if the letter that the response chooses is the answer's ("C", or "C Cecile").

    Args:
        complete: whether a response that the length limit cut off is wrong.

    Raises:
        RewardError: the problem's answer holds no such letter.
    """
    wanted = {choice(one) for one in answers(trajectory)}
    if None in wanted:
        raise RewardError(
            f"problem '{trajectory.prompt.id}': the answer {trajectory.prompt.answer!r} is not a "
            f"letter of a multiple choice."
        )
    if complete and trajectory.truncated:
        return 0.0
    return float(choice(trajectory.text) in wanted)


def answers(trajectory: Trajectory) -> list[str]:
    """The problem's answer as texts: itself, or each of a list of equally right ones.

    Raises:
        RewardError: there is none, or it is neither text nor number.
    """
    given = trajectory.prompt.answer
    listed = list(given) if isinstance(given, list | tuple) else [given]
    texts = [str(one) for one in listed if isinstance(one, str | int | float) and str(one).strip()]
    if not texts or len(texts) < len(listed):
        raise RewardError(
            f"problem '{trajectory.prompt.id}': the answer must be text or a number, or a list of "
            f"them, not {given!r}."
        )
    return texts


def _spelled(text: str, case: bool, strip: bool) -> str:
    text = text.strip() if strip else text
    return text if case else text.casefold()
