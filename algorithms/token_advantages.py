"""Advantages of single tokens: returns, GAE, whitening, token baselines, prefix credit.

Columns are [N, T]; results are 0 outside the loss mask. `rewards` may be one number per response,
[N], which then stands at its last loss token, or a column of token rewards: bind `rewards` to the
column that `reward_minus_kl` or a reward model wrote. Observation tokens (not in the mask) take no
reward and leave the state of a scan unchanged, as in verl 0.9.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from didact.algorithms.advantages import group_norm
from didact.algorithms.groups import (
    centred,
    group_max,
    group_size,
    group_sum,
    subgroups,
)
from didact.algorithms.tensors import log_ratio
from didact.core.bind import adds
from didact.core.ranges import Count, NonNegative, Share


def at_last_token(values: Tensor, mask: Tensor) -> Tensor:
    """A column [N, T] with the number of each row [N] at its last loss token, 0 elsewhere."""
    after = mask.flip(1).cumsum(1).flip(1)
    return torch.where(mask & (after == 1), values[:, None], 0.0)


def token_rewards(rewards: Tensor, mask: Tensor) -> Tensor:
    """Rewards as a column [N, T]: placed at the last loss token if they are one per response."""
    if rewards.dim() == 1:
        return at_last_token(rewards, mask)
    return torch.where(mask, rewards, 0.0)


def whiten(values: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + eps) over all loss tokens of the step; 0 elsewhere.

    The variance is the sample's (verl 0.9.1, TRL); with fewer than two tokens all are 0.
    """
    count = mask.sum()
    mean = torch.where(mask, values, 0.0).sum() / count.clamp(min=1)
    deviation = torch.where(mask, values - mean, 0.0)
    variance = (deviation**2).sum() / (count - 1).clamp(min=1)
    return deviation * (variance + eps).rsqrt()


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Reward-to-go sum_{s>=t} gamma^(s-t) r_s over loss tokens, [N, T]."""
    return scanned(token_rewards(rewards, mask), mask, gamma)


def scanned(given: Tensor, mask: Tensor, factor: float) -> Tensor:
    """x_t = given_t + factor x_s over loss tokens, s the next of them; 0 elsewhere, [N, T].

    Token by token from the last, all rows at once; outside the mask x is carried on as it is.
    """
    added = torch.where(mask, given, 0.0).t().contiguous().unbind()
    kept = torch.ones_like(given).masked_fill(mask, factor).t().contiguous().unbind()
    found = [torch.zeros_like(given[:, 0])]
    for more, share in zip(reversed(added), reversed(kept), strict=True):
        found.append(more + share * found[-1])
    return torch.where(mask, torch.stack(found[:0:-1], 1), 0.0)


@adds("advantages", "returns")
def reinforce_plus_plus(rewards: Tensor, mask: Tensor, *, gamma: Share = 1.0) -> dict[str, Tensor]:
    """Whitened discounted returns. REINFORCE++, arXiv:2501.03262, as in verl 0.9.1."""
    returns = discounted_returns(rewards, mask, gamma=gamma)
    return {"advantages": whiten(returns, mask), "returns": returns}


def reinforce_plus_plus_baseline(rewards: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    """R - group mean, whitened over all tokens. REINFORCE++-baseline, arXiv:2501.03262, verl."""
    return whiten(centred(rewards, groups)[:, None] * mask, mask)


@adds("advantages", "returns")
def gae(
    rewards: Tensor,
    mask: Tensor,
    values: Tensor,
    *,
    gamma: Share = 1.0,
    lam: Share = 1.0,
    whitened: bool = True,
) -> dict[str, Tensor]:
    """Generalised advantage estimation, arXiv:1506.02438 eq. 16, as in verl 0.9.1.

    delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lam A_{t+1}, with the next *loss*
    token as t+1 and 0 after the last. Returns are A + V, before whitening.
    """
    given = token_rewards(rewards, mask)
    delta = given + gamma * _next_value(values, mask) - values
    raw = scanned(delta, mask, gamma * lam)
    returns = torch.where(mask, raw + values, 0.0)
    return {"advantages": whiten(raw, mask) if whitened else raw, "returns": returns}


def _next_value(values: Tensor, mask: Tensor) -> Tensor:
    """The value at the next loss token after each token, 0 after the last, [N, T]."""
    end = values.shape[1]
    places = torch.arange(end, device=mask.device)
    following = torch.where(mask, places, end).flip(1).cummin(1).values.flip(1)
    following = pad(following[:, 1:], (0, 1), value=end)
    return pad(values, (0, 1)).gather(1, following)


def remax_tokens(rewards: Tensor, mask: Tensor, baseline: Tensor) -> Tensor:
    """Reward-to-go minus the reward of a greedy answer. ReMax, arXiv:2310.10505, verl 0.9.1."""
    return discounted_returns(rewards, mask) - baseline[:, None] * mask


def gdpo(
    reward_parts: Tensor,
    reward_weights: Tensor,
    groups: Tensor,
    mask: Tensor,
    *,
    scale: Literal["group", "none"] = "group",
    whitened: Literal["tokens", "responses"] = "tokens",
    eps: NonNegative = 1e-6,
) -> Tensor:
    """Each reward normalised in its group, then summed with weights, then whitened over tokens.

    GDPO, arXiv:2601.05242, as in verl 0.9.1. TRL 1.16.0 (`normalize_then_sum`) whitens over the
    responses instead, (x - mean) / (std + eps), and has `eps: 1e-4`.

    Args:
        reward_parts, reward_weights: [N, K] and [K].
    """
    parts = [group_norm(part, groups, scale=scale, eps=eps) for part in reward_parts.unbind(1)]
    total = (torch.stack(parts, 1) * reward_weights.to(reward_parts.dtype)).sum(1)
    if whitened == "tokens":
        return whiten(total[:, None] * mask, mask)
    return group_norm(total, torch.zeros_like(groups), eps=eps, singleton="zero")


@adds("advantages", "returns")
def optimal_token_baseline(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    old_logprobs: Tensor,
    old_collision: Tensor,
    *,
    align: Literal["position", "trained"] = "position",
    zero_tail: bool = True,
    eps: NonNegative = 1e-8,
) -> dict[str, Tensor]:
    """Reward-to-go minus the variance-optimal baseline of the group at that token. OTB, verl 0.9.1.

    w_t = 1 - 2 pi_t + sum_v pi_v^2, W_t its running sum; b_t = sum_i G W / (sum_i W + eps). A group
    of one has no baseline.

    Args:
        old_collision: sum of squared probabilities of the policy at the token, [N, T].
        align: compare tokens at equal positions, or at an equal count of loss tokens (verl's
            estimator for tool use).
        zero_tail: no baseline where only the single longest response remains.
    """
    energy = 1 - 2 * old_logprobs.exp() + old_collision
    return _token_baseline(rewards, groups, mask, energy, align, zero_tail, eps)


@adds("advantages", "returns")
def corrected_token_baseline(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    old_logprobs: Tensor,
    old_collision: Tensor,
    behavior_logprobs: Tensor,
    *,
    cap: NonNegative = 2.0,
    align: Literal["position", "trained"] = "position",
    zero_tail: bool = True,
    eps: NonNegative = 1e-8,
) -> dict[str, Tensor]:
    """`optimal_token_baseline` beside truncated importance weights: w_t times their square.

    w_t = (1 - 2 pi_t + sum_v pi_v^2) min(pi_t / mu_t, cap)^2 with mu the sampler, as verl 0.9.1
    does when it is given `rollout_is_weights`; the loss beside it has the weight `truncated_is`.
    """
    ratio = log_ratio(old_logprobs, behavior_logprobs).exp().clamp(max=cap)
    energy = (1 - 2 * old_logprobs.exp() + old_collision) * ratio.square()
    return _token_baseline(rewards, groups, mask, energy, align, zero_tail, eps)


def _token_baseline(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    energy: Tensor,
    align: Literal["position", "trained"],
    zero_tail: bool,
    eps: float,
) -> dict[str, Tensor]:
    returns = discounted_returns(rewards, mask)
    energy = torch.where(mask, energy, 0.0).cumsum(1)
    inside, ahead, order = mask, returns, None
    if align == "trained":
        order = (~mask).long().argsort(dim=1, stable=True)
        inside, ahead, energy = (x.gather(1, order) for x in (mask, returns, energy))
    weight = torch.where(inside, energy, 0.0)
    baseline = group_sum(ahead * weight, groups) / (group_sum(weight, groups) + eps)
    baseline = torch.where(_no_baseline(mask, groups, zero_tail), 0.0, baseline)
    advantages = torch.where(inside, ahead - baseline, 0.0)
    if order is not None:
        advantages = torch.zeros_like(returns).scatter(1, order, advantages)
    return {"advantages": advantages, "returns": returns}


def _no_baseline(mask: Tensor, groups: Tensor, zero_tail: bool) -> Tensor:
    """Rows of groups of one, and the tail of a group's single longest response, bool [N, T]."""
    alone = (group_size(groups) == 1)[:, None]
    if not zero_tail:
        return alone.expand_as(mask)
    length = mask.sum(1)
    longest = group_max(length, groups)
    only = (length == longest) & (group_sum((length == longest).long(), groups) == 1)
    second = group_max(torch.where(only, 0, length), groups)
    places = torch.arange(mask.shape[1], device=mask.device)
    return alone | (only[:, None] & (places >= second[:, None]))


def prefix_group_norm(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    prefix: Tensor,
    prefix_id: Tensor,
    *,
    scale: Literal["group", "none"] = "none",
    singleton: Literal["raw", "zero"] = "raw",
    per_prefix: Count = 1,
    eps: NonNegative = 1e-6,
) -> Tensor:
    """Own credit for a demonstrated prefix and for its continuation. Prefix-RFT, 2507.01679.

    A continuation is centred among the rollouts that share its prefix; the prefix gets that value
    minus the mean of the rollouts without prefix, over `per_prefix`. As released
    (ZeroYuHuang/prefix_rft @ 5f5d2a1f): `dr_grpo_prefix` is the default, `dr_grpo_prefix_v2` has
    `singleton: zero`, `grpo_prefix` `scale: group`. No rollout without prefix: a mean of 0.

    Args:
        prefix: 1 on tokens of the demonstration, [N, T].
        prefix_id: which prefix the rollout continues, 0 for none, [N].
        per_prefix: rollouts per prefix.
    """
    shared = subgroups(groups, prefix_id)
    own = group_norm(rewards, shared, scale=scale, singleton=singleton, eps=eps)
    free = (prefix_id == 0).to(rewards.dtype)
    count = group_sum(free, groups)
    mean = group_sum(rewards * free, groups) / count.clamp(min=1)
    if singleton == "raw":
        mean = torch.where(count > 1, mean, 0.0)
    continuation = own[:, None] * mask
    return torch.where(prefix.bool(), ((own - mean) / per_prefix)[:, None], continuation) * mask
