"""How many answers a prompt deserves: DARS, GVM-RAFT and Reinforce-Ada, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Rule = Literal["balanced", "positive_focused"]


def dars_extra(
    accuracy: float,
    *,
    n: int,
    most: int,
    schedule: Literal["equal", "weighted"],
    standardised: bool = False,
) -> int:
    """Further answers of DARS, arXiv:2508.13755 (yangzhch6/DARS @ 9b21b714 `ray_dars_trainer.py`).

    None for accuracy >= 0.5. Else, with S = 2u(1-u) and peak P = n/2 (standardised:
    S = 2 sqrt(u(1-u)), P = n), ceil((P - n S)/S) for the equal treatment, and
    ceil((2(1-u) P - n S)/S) for the hardness-weighted; at most `most` answers in all.

    Args:
        accuracy: share of successes among the first n; 0 counts as 0.5/n.
    """
    if accuracy >= 0.5:
        return 0
    rate = accuracy if accuracy > 0 else 0.5 / n
    share = 2 * math.sqrt(rate * (1 - rate)) if standardised else 2 * rate * (1 - rate)
    peak = float(n) if standardised else n / 2
    target = peak if schedule == "equal" else 2 * (1 - rate) * peak
    return min(math.ceil((target - n * share) / share), most - n)


def gvm_shares(
    gradients: Sequence[float],
    accepted: Sequence[float],
    *,
    alpha: float = 1e-3,
    beta: float = 2.0,
    accepted_at_most: float = 0.0,
    least_expected: float = 0.0,
    total: int = 0,
) -> list[float]:
    """Shares G / sqrt(p + alpha / p^(beta-1)), normalised; 0 where G or p is 0.

    GVM-RAFT, arXiv:2505.02391 (RLHFlow/GVM @ d640a754). All 0 if no prompt qualifies.

    Args:
        gradients: mean gradient norm G of the accepted answers; accepted: accept rate p.
        accepted_at_most: drop prompts above this rate; 0 keeps all.
        least_expected: drop prompts with fewer expected successes out of `total`; 0 keeps all.
    """
    raw = [
        norm / math.sqrt(rate + alpha / rate ** (beta - 1)) if norm and rate else 0.0
        for norm, rate in zip(gradients, accepted, strict=True)
    ]
    shares = _normalised(raw)
    if accepted_at_most > 0:
        shares = [
            s if p <= accepted_at_most else 0.0 for s, p in zip(shares, accepted, strict=True)
        ]
    if least_expected > 0:
        pairs = zip(shares, accepted, strict=True)
        shares = [s if p * s * total >= least_expected else 0.0 for s, p in pairs]
    return _normalised(shares)


def _normalised(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total for value in values] if total else [0.0 for _ in values]


def whole_numbers(shares: Sequence[float], total: int) -> list[int]:
    """Shares of `total` as integers of that sum: rounded, the largest residuals corrected.

    As GVM's `float_to_int_preserve_sum`; ties go to the earlier prompt.
    """
    scaled = [share * total for share in shares]
    counts = [round(value) for value in scaled]
    missing = total - sum(counts) if any(shares) else 0
    step = 1 if missing > 0 else -1
    order = sorted(range(len(counts)), key=lambda at: -step * (scaled[at] - counts[at]))
    for at in order[: abs(missing)]:
        counts[at] += step
    return counts


def ada_satisfied(positives: int, negatives: int, *, keep: int, rule: Rule = "balanced") -> bool:
    """Whether a prompt stops drawing. Reinforce-Ada, arXiv:2510.04996 (@ 05be6058).

    `balanced`: half of `keep` on either side; `positive_focused`: one success.
    """
    if rule == "positive_focused":
        return positives >= 1
    half = keep // 2
    return positives >= half and negatives >= keep - half


def ada_kept(positives: int, negatives: int, *, keep: int) -> tuple[int, int]:
    """How many successes and failures to keep, first come first kept: Reinforce-Ada's downsampling.

    Half successes if there are, the rest failures, then whichever side has more left.
    """
    good = min(keep // 2, positives)
    bad = min(keep - good, negatives)
    return min(positives, keep - bad), bad


def ada_fallback(positives: int, negatives: int, *, keep: int) -> tuple[int, int]:
    """What a prompt without a success-focused exit keeps: ceil(share of successes x keep) of them.

    Bounded to leave one of either side where both exist (Reinforce-Ada, `positive_focused`).
    """
    take = min(keep, positives + negatives)
    if take == 0:
        return 0, 0
    wanted = math.ceil(positives / (positives + negatives) * keep)
    good = min(max(wanted, 1), take - 1, positives)
    bad = min(take - good, negatives)
    return min(positives, take - bad), bad
