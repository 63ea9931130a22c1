"""Policy-gradient losses whose ratio is that of one token.

Everywhere A is the advantage ([B] or [B, T]), lp the live log-probability, and
r = exp(clamp(lp - old, +-log_ratio_limit)). Gradients stop at every argument but `logprobs`; so
reading `old_logprobs` from `logprobs` is exactly on-policy (r = 1 with gradient).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from didact.algorithms.rules import vanishes_with
from didact.algorithms.tensors import LIMIT, log_ratio, per_token
from didact.core.ranges import NonNegative, Positive


@vanishes_with("advantages")
def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A lp, the score-function estimator.

    REINFORCE; GPG, arXiv:2504.02546, as verl 0.9.1 `compute_policy_loss_gpg`. With the
    reward as advantage (`bind: {advantages: reward}`) it is RAFT, arXiv:2304.06767.

    Shapes: logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    return -per_token(advantages, logprobs) * logprobs


@vanishes_with("advantages")
def importance_weighted(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """-A r, the surrogate without a clip. Trinity-RFT 0.6.0 `ImportanceSamplingLossFn`.

    The first half of KL-Cov (see `selection.top_covariance`), and of prime-rl's loss together
    with the weight `total_variation_trust`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp()
    return -per_token(advantages, logprobs) * ratio


@vanishes_with("advantages")
def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: NonNegative = 0.2,
    clip_high: NonNegative = 0.2,
    dual_clip: Annotated[float, Field(gt=1)] | None = None,
    ratio_cap: Positive | None = None,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), the clipped surrogate.

    PPO, arXiv:1707.06347 eq. 7; clip-higher is DAPO, arXiv:2503.14476; as verl 0.9.1
    `compute_policy_loss_vanilla`. LOOP, arXiv:2502.01600, clips to [1/(1+e), 1+e]: set
    clip_low = e/(1+e).

    Args:
        dual_clip: c > 1; where A < 0 the loss is at most -A c (arXiv:1912.09729). verl's default
            is 3, DAPO recipes use 10; None: off.
        ratio_cap: cap r in the unclipped branch, TRL 1.16.0 `delta` (arXiv:2505.07291); None: off.
        log_ratio_limit: `inf` switches the clamp off, as TRL and Trinity.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    gain = per_token(advantages, logprobs)
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp()
    unclipped = ratio if ratio_cap is None else ratio.clamp(max=ratio_cap)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-gain * unclipped, -gain * clipped)
    if dual_clip is not None:
        loss = torch.where(gain < 0, torch.minimum(loss, -gain * dual_clip), loss)
    return loss


@vanishes_with("advantages")
def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: NonNegative = 1.0,
    clip_high: NonNegative = 0.28,
    mask_low: NonNegative | None = None,
    mask_high: NonNegative | None = None,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """-sg[clip(r, 1 - clip_low, 1 + clip_high)] A lp: the weight is clipped, not the gradient.

    CISPO, MiniMax-M1, arXiv:2506.13585. The defaults are Trinity-RFT 0.6.0's; clip_low = 1
    is no lower bound, as in the paper. TRL 1.16.0 names the cap itself: its `epsilon_high` 5 is
    clip_high = 4. PipelineRL's `reinforce` is this with clip_low = 1 and old = behavior.

    Args:
        mask_low, mask_high: drop tokens a PPO clip would (A < 0, r < 1 - mask_low or A > 0,
            r > 1 + mask_high), as in the paper; Trinity `enable_mask_clip`. None: keep all.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    gain = per_token(advantages, logprobs)
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp().detach()
    loss = -ratio.clamp(1 - clip_low, 1 + clip_high) * gain * logprobs
    if mask_high is not None:
        loss = torch.where((gain > 0) & (ratio > 1 + mask_high), 0.0, loss)
    if mask_low is not None:
        loss = torch.where((gain < 0) & (ratio < 1 - mask_low), 0.0, loss)
    return loss


@vanishes_with("advantages")
def sapo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    temperature_positive: Positive = 1.0,
    temperature_negative: Positive = 1.05,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """-A sigmoid(tau (r - 1)) 4 / tau, a soft gate in place of the clip.

    SAPO, arXiv:2511.20347, as verl 0.9.1 and TRL 1.16.0. tau is `temperature_positive`
    where A > 0 and `temperature_negative` elsewhere.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    gain = per_token(advantages, logprobs)
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp()
    return -gain * _soft_gate(ratio, gain, temperature_positive, temperature_negative)


@vanishes_with("advantages")
def sapo_detached(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    temperature_positive: Positive = 1.0,
    temperature_negative: Positive = 1.05,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """-sg[sigmoid(tau (r - 1)) 4 / tau] A lp, Trinity-RFT 0.6.0 `SAPOPolicyLossFn`.

    Departs from the paper: the gate weighs the score function and has no gradient of its own, so
    on-policy the gradient is 2 / tau times that of `sapo`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    gain = per_token(advantages, logprobs)
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp().detach()
    gate = _soft_gate(ratio, gain, temperature_positive, temperature_negative)
    return -gate * gain * logprobs


def _soft_gate(ratio: Tensor, gain: Tensor, positive: float, negative: float) -> Tensor:
    tau = torch.where(gain > 0, positive, negative).to(ratio.dtype)
    return torch.sigmoid(tau * (ratio - 1)) * 4 / tau


def dro(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, beta: Positive = 0.5
) -> Tensor:
    """-(A lp - beta/2 (lp - old)^2), as verl 0.9.1 `compute_policy_loss_dro`.

    DRO, arXiv:2405.19107, with the advantage in place of reward minus value. It does not
    vanish at A = 0: the quadratic still pulls towards `old`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    drift = logprobs - old_logprobs.detach()
    return -(per_token(advantages, logprobs) * logprobs - 0.5 * beta * drift.square())
