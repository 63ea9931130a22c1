"""A penalty for saying the same again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from didact.core.ranges import Count, NonNegative
from didact.core.types import Trajectory


def repetition(
    trajectory: Trajectory,
    *,
    n: Count = 3,
    greatest: NonNegative = 1.0,
    unit: Literal["tokens", "words"] = "words",
) -> float:
    """Minus the share of n-grams that occurred before: `-greatest (1 - distinct / all)`.

    0.0 for a response shorter than n. The n-gram penalty of arXiv:2502.03373 appendix, in the
    form of open-r1 and TRL (`get_repetition_penalty_reward`).

    Args:
        n: length of the n-grams.
        greatest: size of the penalty that full repetition approaches.
        unit: "words" (lower case, separated by white space) or "tokens".
    """
    if n < 1:
        raise ValueError(f"repetition: n must be at least 1, not {n}")
    items = _items(trajectory, unit)
    grams = [tuple(items[at : at + n]) for at in range(len(items) - n + 1)]
    return -greatest * (1 - len(set(grams)) / len(grams)) if grams else 0.0


def _items(trajectory: Trajectory, unit: str) -> Sequence[object]:
    return trajectory.tokens.tolist() if unit == "tokens" else trajectory.text.lower().split()
