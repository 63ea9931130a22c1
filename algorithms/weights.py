"""Multipliers of a loss: importance weights of three policies, and rejection of rows and tokens.

Every weight is detached. `old` is the policy before the phase, `behavior` the sampler; a rule that
has no old policy binds `old_logprobs` to `logprobs`. A weight of 0 drops a token from the sum but
not from the denominator, which counts the mask (as AReaL and TRL). verl masks it: `rejection` under
`select`, with `recount: true`.
"""

from __future__ import annotations

from math import inf, log
from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.tensors import LIMIT, Level, log_ratio_at, masked_mean, masked_sum
from didact.core.ranges import NonNegative, Positive


def importance(
    logprobs: Tensor,
    old_logprobs: Tensor,
    mask: Tensor,
    *,
    level: Level = "token",
    cap: Positive = inf,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """min(pi / pi_old, cap) of the token, the sequence, or its geometric mean.

    Weight `importance_sampling` (level `token`) and `gspo_importance_sampling` (`geometric`) of
    the REC family, arXiv:2509.24203, Trinity-RFT 0.6.0 `rec_policy_loss.py`, which do not clamp
    the log-ratio.

    Shapes: logprobs, old_logprobs [B, T], mask bool [B, T]; returns [B, T] or [B].
    """
    log_weight = log_ratio_at(logprobs, old_logprobs, mask, level=level, limit=log_ratio_limit)
    return _flat(log_weight.exp().clamp(max=cap))


def truncated_is(
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    mask: Tensor,
    *,
    cap: Positive = 2.0,
    floor: NonNegative = 0.0,
    level: Level = "token",
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """clip(pi_old / pi_behavior, floor, cap): truncated importance sampling of the sampler.

    verl 0.9.1 `compute_rollout_correction_weights` (levels `token`, `sequence`); the behaviour
    weight of decoupled PPO, arXiv:2505.24298, AReaL@4aef98d8 (action `clamp`; its level
    `sequence` with the mean is `geometric` here). DOTS, arXiv:2506.05316, is decoupled PPO with
    cap = inf.

    Shapes: old_logprobs, behavior_logprobs [B, T], mask bool [B, T]; returns [B, T] or [B].
    """
    log_weight = log_ratio_at(
        old_logprobs, behavior_logprobs, mask, level=level, limit=log_ratio_limit
    )
    return _flat(log_weight.exp().clamp(floor, cap))


def geometric_truncated_is(
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    mask: Tensor,
    *,
    cap: Positive = 2.0,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """Geometric mean over the sequence of weights that were first truncated per token.

    How verl 0.9.1 `compute_policy_loss_geo_mean` corrects sampler mismatch.

    Shapes: old_logprobs, behavior_logprobs [B, T], mask bool [B, T]; returns [B].
    """
    log_weight = log_ratio_at(
        old_logprobs, behavior_logprobs, mask, level="token", limit=log_ratio_limit
    )
    return masked_mean(log_weight.exp().clamp(max=cap).log(), mask).exp().detach()


def icepop(
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    mask: Tensor,
    *,
    low: NonNegative = 0.5,
    high: NonNegative = 2.0,
    level: Level = "token",
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """pi_old / pi_behavior where it lies in [low, high], 0 elsewhere.

    IcePop (Ring-1T, arXiv:2510.18855); verl 0.9.1 `rollout_is_threshold: "low_high"`; AReaL's
    action `mask` on the ratio, with low = 0.

    Shapes: old_logprobs, behavior_logprobs [B, T], mask bool [B, T]; returns [B, T] or [B].
    """
    weight = log_ratio_at(
        old_logprobs, behavior_logprobs, mask, level=level, limit=log_ratio_limit
    ).exp()
    return _flat(torch.where((weight >= low) & (weight <= high), weight, 0.0))


def rejection(
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    mask: Tensor,
    *,
    statistic: Literal["ratio", "k2", "k3"] = "ratio",
    over: Literal["token", "sum", "mean", "max"] = "token",
    low: NonNegative = 0.0,
    high: NonNegative = inf,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """1 where a statistic of the mismatch lies in [low, high], 0 elsewhere; rows or tokens.

    With x = clamp(old - behavior): `k2` is x^2/2 and `k3` exp(x) - 1 - x, of a token or the sum,
    mean or largest over the sequence; `ratio` is exp(x) of a token, or exp of the sum, mean or
    largest x. verl 0.9.1 `compute_rollout_rejection_mask`: its `k1` is the inverse of `ratio`, so
    low is 1 / its upper threshold; several options together are several weights. AReaL@4aef98d8
    `apply_rejection_sampling` (action `mask`), whose k3 is exp(-x) - 1 + x: bind the two columns
    the other way round.

    verl also takes the rejected tokens out of the denominator: `select` and `recount: true`.

    Shapes: old_logprobs, behavior_logprobs [B, T], mask bool [B, T]; returns [B, T] or [B].
    """
    drift = log_ratio_at(
        old_logprobs, behavior_logprobs, mask, level="token", limit=log_ratio_limit
    )
    match statistic:
        case "ratio":
            value, low, high = drift, log(low) if low > 0 else -inf, log(high)
        case "k2":
            value = 0.5 * drift.square()
        case "k3":
            value = drift.exp() - 1 - drift
    value = _over(value, mask, over)
    return ((value >= low) & (value <= high)).to(old_logprobs.dtype)


def _over(value: Tensor, mask: Tensor, how: Literal["token", "sum", "mean", "max"]) -> Tensor:
    match how:
        case "token":
            return value
        case "sum":
            return masked_sum(value, mask)
        case "mean":
            return masked_mean(value, mask)
        case "max":
            largest = torch.where(mask, value, -inf).amax(1)
            return torch.where(mask.any(1), largest, 0.0)


def exponential_advantage(advantages: Tensor, *, temperature: Positive = 1.0) -> Tensor:
    """exp(A / temperature): better samples count more.

    RED-Weight of arXiv:2509.24203, Trinity-RFT 0.6.0 (`weight: advantage`); advantage-weighted
    regression with `negative_log_likelihood`.

    Shapes: advantages [B] or [B, T]; returns the same.
    """
    return (advantages / temperature).exp().detach()


def _flat(weight: Tensor) -> Tensor:
    return (weight[:, 0] if weight.shape[1] == 1 else weight).detach()


def stored(number: Tensor) -> Tensor:
    """A stored signal or column as it is: `{use: stored, bind: {number: filter_weight}}`.

    Args:
        number: [B] or [B, T].
    """
    return number.detach()
