"""Policy losses whose ratio is that of the whole sequence.

With x_t = lp_t - old_t: s = exp(mean_t x_t) is the length-normalised ratio, exp(sum_t x_t) the
true one. A loss that is one number per sequence is repeated on its tokens: average `sequences`
then is the mean over sequences, and `sequence_sum` weights it by length. Gradients stop at every
argument but `logprobs`.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from didact.algorithms.rules import vanishes_with
from didact.algorithms.tensors import (
    LIMIT,
    log_ratio,
    log_ratio_at,
    masked_mean,
    masked_sum,
    per_token,
)
from didact.core.ranges import NonNegative, Positive

LEAST = log(1e-8)


@vanishes_with("advantages")
def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: NonNegative = 3e-4,
    clip_high: NonNegative = 4e-4,
    log_ratio_limit: Positive = 10.0,
) -> Tensor:
    """max(-A r, -A clip(r)) with r_t = sg[s] exp(lp_t - sg[lp_t]): GSPO in its token form.

    GSPO (its token form), arXiv:2507.18071, as verl 0.9.1 `compute_policy_loss_gspo`. The
    value at each token is that of its sequence; with one advantage per sequence the gradient is
    that of GSPO. Paper and verl average by `sequences`; with `sequence_sum` it is LUSPO
    (TRL 1.16.0 `luspo`).

    Args:
        log_ratio_limit: upper clamp of log r, verl's 10; there is no lower one.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    mean = masked_mean(logprobs - old_logprobs, mask).detach()[:, None]
    ratio = (logprobs - logprobs.detach() + mean).clamp(max=log_ratio_limit).exp()
    gain = per_token(advantages, logprobs)
    return torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip_low, 1 + clip_high))


@vanishes_with("advantages")
def trajectory_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: NonNegative = 1 / 11,
    clip_high: NonNegative = 0.1,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """max(-A R, -A clip(R, 1 - clip_low, 1 + clip_high)), R = exp(sum_t x_t), on each token.

    The per-trajectory variant of LOOP, arXiv:2502.01600; apple/ml-loop@6ade7b96
    `_surrogate_loss` (`pg_per_trajectory`). The default clip is its [1/(1+e), 1+e] with e = 0.1.
    Use average `sequences`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] (or [B, T], averaged over the mask), mask
    bool [B, T]; returns [B, T].
    """
    total = log_ratio_at(logprobs, old_logprobs, mask, level="sequence", limit=log_ratio_limit)
    ratio = total.exp()
    gain = _per_row(advantages, logprobs, mask)
    loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip_low, 1 + clip_high))
    return loss.expand_as(logprobs)


@vanishes_with("advantages")
def gmpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: NonNegative = 0.4,
    clip_high: NonNegative = 0.4,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """-A exp(mean_t x^_t) on each token, x^ the one-sidedly clipped log-ratio: geometric mean.

    GMPO, arXiv:2507.20673, as verl 0.9.1 `compute_policy_loss_geo_mean`:
    x^ = sgn(A) min(sgn(A) x, sgn(A) clip(x, -clip_low, clip_high)), clipped in log space; A is the
    mean of the advantages over the mask. Use average `sequences`. To correct sampler mismatch as
    verl does, use the weight `geometric_truncated_is`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    drift = (logprobs - old_logprobs.detach()).clamp(-log_ratio_limit, log_ratio_limit)
    sign = per_token(advantages, logprobs).sign()
    tight = sign * torch.minimum(sign * drift, sign * drift.clamp(-clip_low, clip_high))
    ratio = masked_mean(tight, mask).exp()[:, None]
    return (-_per_row(advantages, logprobs, mask) * ratio).expand_as(logprobs)


@vanishes_with("advantages")
def vespo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    power_positive: NonNegative = 2.0,
    rate_positive: NonNegative = 3.0,
    power_negative: NonNegative = 3.0,
    rate_negative: NonNegative = 2.0,
) -> Tensor:
    """-sg[phi] A lp, phi = W^k exp(rate (1 - W)), W = exp(sum_t x_t): a gamma-shaped weight.

    VESPO, arXiv:2602.10693, as TRL 1.16.0 `vespo`: (k, rate) = (2, 3) where A >= 0, (3, 2) where
    A < 0; x_t is clamped to +-20 and log W to [ln 1e-8, 20].

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    total = masked_sum(log_ratio(logprobs.detach(), old_logprobs), mask)[:, None]
    gain = per_token(advantages, logprobs)
    positive, negative = (power_positive, rate_positive), (power_negative, rate_negative)
    return -_gamma_weight(total, gain, positive, negative) * gain * logprobs


@vanishes_with("advantages")
def vespo_corrected(
    logprobs: Tensor,
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cap: Positive = 2.0,
    power_positive: NonNegative = 2.0,
    rate_positive: NonNegative = 3.0,
    power_negative: NonNegative = 3.0,
    rate_negative: NonNegative = 2.0,
) -> Tensor:
    """`vespo` with the sampler's mismatch inside W: log W = sum_t x_t + log min(old/behavior, cap).

    TRL 1.16.0 with importance sampling correction: the truncated weight of each token enters phi
    and does not multiply the loss.

    Shapes: columns [B, T], advantages [B] or [B, T], mask bool [B, T]; returns [B, T].
    """
    mismatch = log_ratio(old_logprobs.detach(), behavior_logprobs).clamp(max=log(cap))
    drift = log_ratio(logprobs.detach(), old_logprobs) + mismatch.clamp(min=LEAST)
    gain = per_token(advantages, logprobs)
    positive, negative = (power_positive, rate_positive), (power_negative, rate_negative)
    weight = _gamma_weight(masked_sum(drift, mask)[:, None], gain, positive, negative)
    return -weight * gain * logprobs


def _gamma_weight(
    total: Tensor, gain: Tensor, positive: tuple[float, float], negative: tuple[float, float]
) -> Tensor:
    """phi of the sequence's log-ratio [B, 1], with (power, rate) by the sign of the advantage."""
    total = total.clamp(LEAST, LIMIT)
    power, rate = (
        torch.where(gain >= 0, above, below).to(total.dtype)
        for above, below in zip(positive, negative, strict=True)
    )
    return (rate + power * total - rate * total.exp()).exp().detach()


def squared_consistency(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    tau: NonNegative = 0.1,
) -> Tensor:
    """-A_t lp_t + (tau/2) x_t sum_s x_s: per sequence -A log pi + (tau/2) (log pi/pi_old)^2.

    The mirror-descent objective of Kimi k1.5, arXiv:2501.12599, with the group mean as
    baseline. Its quadratic is of the sequence's log-ratio and is split over the tokens so that
    average `sequence_sum` gives the paper's mean over responses, value and gradient. A formula of
    the paper: no code was released.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    drift = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)
    quadratic = 0.5 * tau * drift * drift.sum(1, keepdim=True)
    return quadratic - per_token(advantages, logprobs) * logprobs


def _per_row(advantages: Tensor, like: Tensor, mask: Tensor) -> Tensor:
    """One advantage per row, [B, 1]: itself, or its mean over the mask."""
    gain = per_token(advantages, like)
    return gain if gain.shape[1] == 1 else masked_mean(gain, mask)[:, None]
