"""Losses that regress a value: the critic of PPO, and ROVER's policy as a value function."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from didact.algorithms.tensors import masked_mean, per_token
from didact.core.ranges import NonNegative, Positive


def squared_error(values: Tensor, returns: Tensor) -> Tensor:
    """(v - R)^2 / 2.

    Shapes: values [B, T] with gradient, returns [B, T] or [B]; returns [B, T].
    """
    return 0.5 * (values - per_token(returns, values).detach()).square()


def clipped_value(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: NonNegative = 0.5
) -> Tensor:
    """max((v - R)^2, (clip(v, old - clip, old + clip) - R)^2) / 2, the critic of PPO.

    As verl 0.9.1 `compute_value_loss`; 0.5 is its critic.yaml, 0.2 the classic.

    Shapes: values [B, T] with gradient, old_values [B, T], returns [B, T] or [B]; returns [B, T].
    """
    target = per_token(returns, values).detach()
    old = old_values.detach()
    near = torch.minimum(torch.maximum(values, old - clip), old + clip)
    return 0.5 * torch.maximum((values - target).square(), (near - target).square())


def rover(
    logprobs: Tensor,
    old_logprobs: Tensor,
    mean_logprobs: Tensor,
    old_mean_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    temperature: Positive = 1.0,
    bootstrap: NonNegative = 1.0,
    clip: Positive | None = None,
) -> Tensor:
    """(q_t - sg[A_t + bootstrap V_{t+1}])^2: the policy as the Q of the uniform policy.

    q_t = temperature (lp_t - old_t); V_{t+1} = temperature (mean_logprobs - old_mean_logprobs) at
    the next token of the mask, 0 after the last: the mean over the vocabulary of the change. ROVER,
    arXiv:2509.24981, as tinnerhrhe/ROVER@b0fa5878 Math/verl `dp_actor.py`. A is the
    reward minus the group's mean. Gradients stop at the target, so only `logprobs` gets one.

    Args:
        bootstrap: the release's `next_q_scale_factor`; 0 is its `target_adv_only`.
        clip: e; hold q at log(1 +- e) once it leaves that range away from the target
            (`use_rover_clip`).

    Shapes: all columns [B, T], advantages [B] or [B, T], mask bool [B, T]; returns [B, T].
    """
    quality = temperature * (logprobs - old_logprobs.detach())
    ahead = temperature * (mean_logprobs - old_mean_logprobs).detach()
    ahead = torch.where(mask, ahead, 0.0)
    ahead = torch.cat([ahead[:, 1:], torch.zeros_like(ahead[:, :1])], dim=1)
    target = (per_token(advantages, logprobs) + bootstrap * ahead).detach()
    if clip is not None:
        high, low = log(1 + clip), log(1 - clip)
        quality = torch.where(target > quality, quality.clamp(max=high), quality.clamp(min=low))
    return (quality - target).square()


def rover_response(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    temperature: Positive = 1.0,
) -> Tensor:
    """(mean_t q_t - A)^2 on each token of the response: ROVER without the Bellman step.

    `response_level_rover_loss` of tinnerhrhe/ROVER@b0fa5878. Use average `sequences`.

    Shapes: logprobs, old_logprobs [B, T], advantages [B] or [B, T], mask bool [B, T];
    returns [B, T].
    """
    quality = masked_mean(temperature * (logprobs - old_logprobs.detach()), mask)
    gain = per_token(advantages, logprobs)
    target = gain[:, 0] if gain.shape[1] == 1 else masked_mean(gain, mask)
    return (quality - target).square()[:, None].expand_as(logprobs)
