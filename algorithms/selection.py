"""Choices over a whole mini-batch: which tokens, by covariance, entropy or second moment, count.

They rank tokens of many rows, so they belong under `select`, where they read frozen columns of the
whole mini-batch and the result is the same for every micro-batch size and rank. Bound to the live
policy's, `bind: {logprobs: now_logprobs}`, they are the released codes with the mini-batch as one
micro-batch; `old_logprobs`, those before the phase, save a forward pass at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from didact.algorithms.tensors import LIMIT, Level, log_ratio_at, per_token, whole_mini_batch
from didact.core.ranges import NonNegative, Positive, Share


@whole_mini_batch
def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    share: Share = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    clip_low: NonNegative = 1.0,
    clip_high: NonNegative = 1.0,
    seed: float = 0.0,
) -> Tensor:
    """0 on a random few tokens of high covariance of advantage and log-probability, 1 elsewhere.

    cov_t = (A_t - mean A)(lp_t - mean lp), means over the mask. Of the tokens with cov_low < cov <
    cov_high that `ppo_clip` with these bounds does not clip already, max(floor(share n), 1) are
    drawn without replacement, n the tokens of the mask. Clip-Cov, arXiv:2505.22617, as
    verl 0.9.1 `compute_policy_loss_clip_cov`; the loss beside it is `ppo_clip` with the same
    bounds, log_ratio_limit = inf and dual clip off. The defaults are the authors' scripts'.

    Args:
        seed: of the draw; a schedule with slope 1 gives every step its own.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    gain = per_token(advantages, logprobs).expand_as(logprobs)
    new = logprobs.detach()
    ratio = (new - old_logprobs).exp()
    clipped = -gain * ratio.clamp(1 - clip_low, 1 + clip_high) > -gain * ratio
    cov = _covariance(new, gain, mask)
    candidates = (mask & ~clipped & (cov > cov_low) & (cov < cov_high)).nonzero()
    count = min(max(int(share * int(mask.sum())), 1), len(candidates))
    draw = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(int(seed)))
    chosen = candidates[draw[:count].to(candidates.device)]
    keep = torch.ones_like(new)
    keep[chosen[:, 0], chosen[:, 1]] = 0.0
    return keep


@whole_mini_batch
def top_covariance(
    logprobs: Tensor, advantages: Tensor, mask: Tensor, *, share: Share = 2e-4
) -> Tensor:
    """1 on the max(floor(share n), 1) tokens of highest covariance, 0 elsewhere.

    The choice of KL-Cov, arXiv:2505.22617, as verl 0.9.1 `compute_policy_loss_kl_cov`.
    Its loss is two terms: `importance_weighted`, and `kl_abs` against `old_logprobs` with this
    choice and weight 1 (paper and scripts; verl's default is 0.1). The authors' repository gives
    the share in percent (0.2 is 2e-3). Covariance as in `clip_cov`.

    Shapes: logprobs [B, T], advantages [B] or [B, T], mask bool [B, T]; returns [B, T].
    """
    gain = per_token(advantages, logprobs).expand_as(logprobs)
    cov = _covariance(logprobs.detach(), gain, mask)[mask]
    keep = torch.zeros_like(cov)
    if len(cov):
        keep[cov.topk(max(int(share * len(cov)), 1)).indices] = 1.0
    return _scatter(keep, mask)


@whole_mini_batch
def entropy_quantile(entropy: Tensor, mask: Tensor, *, quantile: Share = 0.8) -> Tensor:
    """1 on tokens whose entropy is at or above the quantile over the mask, 0 elsewhere.

    Forking tokens, arXiv:2506.01939; TRL 1.16.0, whose `top_entropy_quantile` is 1 - quantile (its
    mask is where the policy term stays; a KL term keeps all tokens). Ties with the quantile stay.
    Bind `entropy: now_entropy`, or `old_entropy`.

    Shapes: entropy [B, T], mask bool [B, T]; returns [B, T].
    """
    values = entropy.detach()[mask]
    if not len(values):
        return torch.zeros_like(entropy)
    ordered = values.sort().values
    at = quantile * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    least = torch.lerp(ordered[below], ordered[above], at - below)
    return _scatter((values >= least).to(entropy.dtype), mask)


@whole_mini_batch
def second_moment_trust(
    old_logprobs: Tensor, behavior_logprobs: Tensor, mask: Tensor, *, threshold: NonNegative = 0.04
) -> Tensor:
    """1 on the most tokens of smallest (old - behavior)^2 whose mean is below the threshold.

    M2PO, arXiv:2510.01161, as AReaL@4aef98d8 `_apply_m2po_masking`: tokens leave in
    descending order; at least one stays.

    Shapes: old_logprobs, behavior_logprobs [B, T], mask bool [B, T]; returns [B, T].
    """
    moment = (old_logprobs.detach() - behavior_logprobs)[mask].square()
    keep = torch.zeros_like(moment)
    if len(moment):
        ordered, order = moment.sort()
        counts = torch.arange(1, len(ordered) + 1, device=moment.device)
        within = (ordered.cumsum(0) / counts < threshold).nonzero()
        keep[order[: int(within[-1]) + 1 if len(within) else 1]] = 1.0
    return _scatter(keep, mask)


@whole_mini_batch
def normalized_is(
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    mask: Tensor,
    *,
    cap: Positive = 2.0,
    low: NonNegative = 0.0,
    zero_outside: bool = False,
    level: Level = "token",
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """`truncated_is`, or `icepop` in [low, cap] with `zero_outside`, divided by its mean.

    The mean is over tokens, or over sequences at the levels `sequence` and `geometric`. verl 0.9.1
    `rollout_is_batch_normalize`, which takes the mean over ranks but within a micro-batch.

    Shapes: old_logprobs, behavior_logprobs [B, T], mask bool [B, T]; returns [B, T].
    """
    weight = log_ratio_at(
        old_logprobs, behavior_logprobs, mask, level=level, limit=log_ratio_limit
    ).exp()
    if zero_outside:
        weight = torch.where((weight >= low) & (weight <= cap), weight, 0.0)
    weight = weight.clamp(max=cap)
    counted = mask if level == "token" else mask.any(1, keepdim=True)
    mean = torch.where(counted, weight, 0.0).sum() / counted.sum().clamp(min=1)
    return torch.where(mean > 0, weight / mean, weight).expand_as(old_logprobs).detach()


def _covariance(logprobs: Tensor, gain: Tensor, mask: Tensor) -> Tensor:
    return (gain - gain[mask].mean()) * (logprobs - logprobs[mask].mean())


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    out = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    out[mask] = values
    return out
