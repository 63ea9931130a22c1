"""Losses made for data of another policy: tapered, gated and saturating token ratios.

The REC family, arXiv:2509.24203, needs no loss of its own: it is `reinforce` with the weights
`one_sided_trust`, `two_sided_trust` or `ring_trust` (its clips), `importance` or
`exponential_advantage` (its weights), and the terms `squared_log_ratio` (REP-OPMD) or
`negative_log_likelihood` (REP-AsymRE) beside it. Gradients stop at every argument but `logprobs`.
"""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.rules import vanishes_with
from didact.algorithms.tensors import LIMIT, interpolated_logprobs, log_ratio, per_token
from didact.core.ranges import NonNegative, Positive


@vanishes_with("advantages")
def topr(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, log_ratio_limit: Positive = LIMIT
) -> Tensor:
    """-sg[alpha] A lp, alpha = clip(r, 0, 1) where A <= 0 and 1 elsewhere.

    TOPR, arXiv:2503.14286, as Trinity-RFT 0.6.0 `TOPRPolicyLossFn` (per token; the paper
    tapers whole sequences).

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    gain = per_token(advantages, logprobs)
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp().detach()
    taper = torch.where(gain <= 0, ratio.clamp(0, 1), 1.0)
    return -taper * gain * logprobs


@vanishes_with("advantages")
def sppo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, epsilon: NonNegative = 0.3
) -> Tensor:
    """-A (lp - old) 1[1/(1+e) <= r <= 1+e], the simplified policy optimisation of Trinity-RFT
    0.6.0 `sPPOPolicyLossFn`: log-ratio in place of the ratio, and a two-sided gate.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    drift = logprobs - old_logprobs.detach()
    ratio = drift.detach().exp()
    inside = (ratio >= 1 / (1 + epsilon)) & (ratio <= 1 + epsilon)
    return -per_token(advantages, logprobs) * torch.where(inside, drift, 0.0)


@vanishes_with("advantages")
def opmd(logprobs: Tensor, advantages: Tensor, *, tau: NonNegative = 1.0) -> Tensor:
    """-A lp / (1 + tau), the simple form of online policy mirror descent.

    Trinity-RFT 0.6.0 `OPMDPolicyLossFn`; Kimi k1.5's own loss is
    `sequence_level.squared_consistency`.

    Shapes: logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    return -per_token(advantages, logprobs) * logprobs / (1 + tau)


@vanishes_with("advantages")
def saturating_ratio(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    gamma: Positive = 0.1,
    log_ratio_limit: Positive = LIMIT,
) -> Tensor:
    """-A r / (r + gamma): a bounded ratio whose gradient favours unlikely tokens.

    The replayed half of ExGRPO (policy shaping of LUFFY, arXiv:2504.14945, on a true ratio):
    ElliottYan/LUFFY@01f4ae06 ExGRPO `compute_token_on_off_policy_loss`, reshape `p_div_p_0.1`.
    Bind `old_logprobs` to `behavior_logprobs` for replay.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T]; returns [B, T].
    """
    ratio = log_ratio(logprobs, old_logprobs, limit=log_ratio_limit).exp()
    return -per_token(advantages, logprobs) * ratio / (ratio + gamma)


@vanishes_with("advantages")
def decoupled_clip(
    logprobs: Tensor,
    behavior_logprobs: Tensor,
    advantages: Tensor,
    age: Tensor,
    *,
    clip_low: NonNegative = 0.2,
    clip_high: NonNegative = 0.2,
    cap: Positive = inf,
    space: Literal["log", "probability"] = "log",
) -> Tensor:
    """Decoupled PPO whose proximal policy is interpolated instead of read out.

    min(prox / behavior, cap) times `ppo_clip` against prox (`tensors.interpolated_logprobs`).
    Spares the forward pass for `old_logprobs`; with it, use `ppo_clip` times `truncated_is`. `age`
    is the number of versions since the token was sampled.
    AReaL@4aef98d8 (`prox_logp_method` loglinear), arXiv:2505.24298.

    Shapes: logprobs, behavior_logprobs [B, T], advantages, age [B] or [B, T]; returns [B, T].
    """
    proximal = interpolated_logprobs(logprobs, behavior_logprobs, age, space=space)
    weight = log_ratio(proximal, behavior_logprobs).exp().clamp(max=cap)
    clip = {"clip_low": clip_low, "clip_high": clip_high}
    return weight * ppo_clip(logprobs, proximal, advantages, **clip)
