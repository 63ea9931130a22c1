"""Rewards for the length of a response, in tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from didact.core.errors import RewardError
from didact.core.protocols import Failed, RewardProvider
from didact.core.ranges import Count, NonNegative
from didact.core.types import Trajectory
from didact.core.world import current


def overlong(
    trajectory: Trajectory, *, limit: Count, cache: Count, greatest: NonNegative = 1.0
) -> float:
    """Soft overlong punishment, DAPO (arXiv:2503.14476) equation 13, times `greatest`.

    0 up to `limit - cache` tokens, then falling linearly to -greatest at `limit`; it stays there.

    Args:
        limit: tokens from which the whole penalty applies (paper: 20480).
        cache: tokens over which it grows (paper: 4096).
        greatest: size of the whole penalty.
    """
    if not 0 < cache <= limit:
        raise ValueError(f"overlong: cache must lie in 1..limit ({limit}), not {cache}")
    excess = len(trajectory.tokens) - (limit - cache)
    return -greatest * min(max(excess / cache, 0.0), 1.0)


def linear_length(trajectory: Trajectory, *, per: Count = 1000) -> float:
    """Minus the length: `-tokens / per`; scale it by the reward's weight.

    Args:
        per: tokens that cost 1.0.
    """
    return -len(trajectory.tokens) / per


def kimi_length(
    trajectories: Sequence[Trajectory],
    /,
    *,
    correct: RewardProvider,
    solved_at: float = 1.0,
) -> Sequence[float | Failed]:
    """Length reward of Kimi k1.5 (arXiv:2501.12599 section 2.3.3).

    Among the responses to one prompt, `s = 0.5 - (tokens - min) / (max - min)`; a right answer
    gets s, a wrong one min(0, s); all get 0 if all are equally long. The prompt's responses in one
    call are its group, failed ones left out. On several ranks a call sees a part of a group: there
    use the estimator `kimi_length` on the scored step instead; this reward refuses.

    Args:
        correct: the reward that says which are right; asked once more for each.
        solved_at: its least value for a right answer.

    Raises:
        RewardError: the run has several ranks.
    """
    if current().size > 1:
        raise RewardError(
            "reward kimi_length needs whole groups, but ranks score parts of them; shape the "
            "reward after 'score' by an 'advantage' stage instead."
        )
    groups: dict[str, list[int]] = defaultdict(list)
    scores = correct(trajectories)
    values: list[float | Failed] = []
    for at, (trajectory, score) in enumerate(zip(trajectories, scores, strict=True)):
        values.append(score if isinstance(score, Failed) else 0.0)
        if not isinstance(score, Failed):
            groups[trajectory.prompt.id].append(at)
    for members in groups.values():
        lengths = [len(trajectories[at].tokens) for at in members]
        low, high = min(lengths), max(lengths)
        for at, length in zip(members, lengths, strict=True):
            score = scores[at]
            assert not isinstance(score, Failed)
            shorter = 0.5 - (length - low) / (high - low) if high > low else 0.0
            values[at] = shorter if score >= solved_at else min(0.0, shorter)
    return values


def cosine_length(
    trajectories: Sequence[Trajectory],
    /,
    *,
    correct: RewardProvider,
    limit: Count,
    solved_at: float = 1.0,
    right_short: float = 1.0,
    right_long: float = 0.5,
    wrong_short: float = -1.0,
    wrong_long: float = -0.5,
    exceeded: float | None = None,
) -> Sequence[float | Failed]:
    """Cosine length reward (arXiv:2502.03373 equation 1): short is better if right, worse if wrong.

    `long + (short - long) (1 + cos(pi tokens / limit)) / 2`. The defaults are open-r1's.

    Args:
        correct: the reward that says which are right.
        limit: tokens at which the `…_long` values are reached; they stay beyond it.
        solved_at: least value of `correct` for a right answer.
        right_short, right_long: value of a right answer of 0 and of `limit` tokens.
        wrong_short, wrong_long: the same of a wrong one.
        exceeded: value of any response of `limit` tokens or more (paper: -10); None for the
            `…_long` values.
    """

    def value(trajectory: Trajectory, score: float | Failed) -> float | Failed:
        if isinstance(score, Failed):
            return score
        if exceeded is not None and len(trajectory.tokens) >= limit:
            return exceeded
        right = score >= solved_at
        short, long = (right_short, right_long) if right else (wrong_short, wrong_long)
        done = min(len(trajectory.tokens) / limit, 1.0)
        return long + (short - long) * 0.5 * (1 + math.cos(math.pi * done))

    scored = zip(trajectories, correct(trajectories), strict=True)
    return [value(trajectory, score) for trajectory, score in scored]
