"""Trust regions as weights: 1 for a token that may still learn, 0 for one that moved too far.

They are the clips of policy-gradient methods without the rest of the loss, and compose with any.
Each reads the live policy and is detached.
"""

from __future__ import annotations

from torch import Tensor

from didact.algorithms.tensors import LIMIT, Level, log_ratio_at, masked_mean, per_token
from didact.core.ranges import NonNegative, Positive


def one_sided_trust(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    low: NonNegative = 0.2,
    high: NonNegative = 0.2,
    level: Level = "token",
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """1 where (A >= 0 and r <= 1 + high) or (A <= 0 and r >= 1 - low): where PPO's clip is not.

    REC-OneSide, arXiv:2509.24203; with level `geometric` its `gspo-one-side`; Trinity-RFT 0.6.0.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    ratio, gain = _ratio_and_gain(logprobs, old_logprobs, advantages, mask, level, log_ratio_limit)
    keep = ((gain >= 0) & (ratio <= 1 + high)) | ((gain <= 0) & (ratio >= 1 - low))
    return keep.to(logprobs.dtype).expand_as(logprobs)


def two_sided_trust(
    logprobs: Tensor,
    old_logprobs: Tensor,
    mask: Tensor,
    *,
    low: NonNegative = 0.2,
    high: NonNegative = 0.2,
    level: Level = "token",
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """1 where 1 - low <= r <= 1 + high, whatever the advantage. REC-TwoSide, arXiv:2509.24203.

    Shapes: logprobs, old_logprobs [B, T], mask bool [B, T]; returns [B, T].
    """
    ratio = log_ratio_at(logprobs, old_logprobs, mask, level=level, limit=log_ratio_limit).exp()
    keep = (ratio >= 1 - low) & (ratio <= 1 + high)
    return keep.to(logprobs.dtype).expand_as(logprobs)


def ring_trust(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    low: NonNegative = 0.2,
    high: NonNegative = 0.2,
    outer_low: NonNegative = 0.6,
    outer_high: NonNegative = 2.0,
    level: Level = "token",
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """1 inside the two-sided region, and again far outside on the side that comes back.

    That is also where (A >= 0 and r <= 1 - outer_low) or (A <= 0 and r >= 1 + outer_high).
    REC-Ring, arXiv:2509.24203; Trinity-RFT 0.6.0 (`epsilon_low_prime`, `epsilon_high_prime`).

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    ratio, gain = _ratio_and_gain(logprobs, old_logprobs, advantages, mask, level, log_ratio_limit)
    keep = (ratio >= 1 - low) & (ratio <= 1 + high)
    keep = keep | ((gain >= 0) & (ratio <= 1 - outer_low))
    keep = keep | ((gain <= 0) & (ratio >= 1 + outer_high))
    return keep.to(logprobs.dtype).expand_as(logprobs)


def total_variation_trust(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    low: NonNegative = 0.15,
    high: NonNegative = 0.15,
    one_sided: bool = True,
) -> Tensor:
    """1 unless the token's probability p moved further than allowed, in the advantage's direction.

    A token is dropped where A > 0 and p - p_old > high, or A <= 0 and p - p_old < -low. DPPO-TV,
    arXiv:2602.04879, as verl 0.9.1 `compute_policy_loss_dppo_tv`: the loss beside it is `cispo`
    with clip_high = c - 1 (19). prime-rl@559b4477's default loss has 0.2 and `importance_weighted`.

    Args:
        one_sided: False drops whenever |p - p_old| exceeds the bound (prime-rl's `ipo`).

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    moved = logprobs.detach().exp() - old_logprobs.exp()
    gain = per_token(advantages, logprobs)
    up, down = moved > high, moved < -low
    dropped = (up & (gain > 0)) | (down & (gain <= 0)) if one_sided else up | down
    return (~dropped).to(logprobs.dtype)


def binary_kl_trust(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    low: NonNegative = 0.15,
    high: NonNegative = 0.15,
) -> Tensor:
    """1 unless the binary KL of (token, not token) exceeds the bound in the advantage's direction.

    KL = p_old log(p_old/p) + (1 - p_old) log((1 - p_old)/(1 - p)); dropped where A > 0, p > p_old
    and KL > high, or A <= 0, p < p_old and KL > low. DPPO-KL, arXiv:2602.04879, as verl 0.9.1
    `compute_policy_loss_dppo_kl`; the loss beside it as for `total_variation_trust`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    new, old = logprobs.detach().exp(), old_logprobs.exp()
    tiny = 1e-8
    divergence = old * (old_logprobs - logprobs.detach()) + (1 - old) * (
        ((1 - old + tiny) / (1 - new + tiny)).log()
    )
    gain = per_token(advantages, logprobs)
    up = (gain > 0) & (new > old) & (divergence > high)
    down = (gain <= 0) & (new < old) & (divergence > low)
    return (~(up | down)).to(logprobs.dtype)


def stale_negatives(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    threshold: float = 0.1,
) -> Tensor:
    """0 on tokens with A < 0 of a sequence whose mean(old - lp) exceeds the threshold, 1 elsewhere.

    Off-policy sequence masking of DeepSeek-V3.2, arXiv:2512.02556; Trinity-RFT 0.6.0
    `enable_sequence_masking`; TRL 1.16.0 `off_policy_mask_threshold`, which takes the sampler's
    log-probabilities (`bind: {old_logprobs: behavior_logprobs}`).

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    drift = masked_mean(old_logprobs - logprobs.detach(), mask)[:, None]
    dropped = (per_token(advantages, logprobs) < 0) & (drift > threshold)
    return (~dropped).to(logprobs.dtype).expand_as(logprobs)


def _ratio_and_gain(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    level: Level,
    limit: float,
) -> tuple[Tensor, Tensor]:
    drift = log_ratio_at(logprobs, old_logprobs, mask, level=level, limit=limit)
    return drift.exp(), per_token(advantages, logprobs)
