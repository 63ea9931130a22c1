"""Advantage alignment between two players (arXiv:2406.14662, dereckpiche/AdAlignLLM @ e0ea9851)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.credit import along_steps, at_steps
from didact.algorithms.groups import group_size, group_sum, subgroups
from didact.algorithms.shaping import turn_ends
from didact.core.bind import adds
from didact.core.ranges import NonNegative, Share


def round_returns(rewards: Tensor, *, gamma: float) -> Tensor:
    """Discounted return from each round on, [N, K] rewards of K rounds."""
    running = torch.zeros_like(rewards[:, 0])
    out = torch.zeros_like(rewards)
    for at in reversed(range(rewards.shape[1])):
        running = rewards[:, at] + gamma * running
        out[:, at] = running
    return out


def round_advantages(rewards: Tensor, groups: Tensor, *, gamma: float) -> Tensor:
    """Returns minus the mean of the *other* rollouts of the group at the same round, [N, K].

    Args:
        groups: rollouts of the same environment seed; one alone keeps its returns.
    """
    returns = round_returns(rewards, gamma=gamma)
    others = (group_size(groups) - 1)[:, None].to(returns.dtype)
    baseline = (group_sum(returns, groups) - returns) / others.clamp(min=1)
    return torch.where(others > 0, returns - baseline, returns)


def alignment_weights(
    own: Tensor,
    *,
    gamma: float,
    include_now: bool = False,
    discount: bool = False,
) -> Tensor:
    """sum_{k<t} gamma^(t-k) A_k: what the past has been worth, [N, K].

    Args:
        include_now: k <= t instead. discount: add (gamma^t - 1) A_t, as released.
    """
    rounds = torch.arange(own.shape[1], device=own.device)
    apart = rounds[None, :] - rounds[:, None]
    past = apart >= 0 if include_now else apart > 0
    kernel = torch.where(past, gamma ** apart.clamp(min=0).to(own.dtype), 0.0)
    weights = own @ kernel.to(own.dtype)
    return weights + (gamma ** rounds.to(own.dtype) - 1) * own if discount else weights


def aligned_advantages(
    own: Tensor,
    other: Tensor,
    *,
    beta: float,
    gamma: float,
    include_now: bool = False,
    discount: bool = False,
    signs: bool = False,
    clip: float = torch.inf,
    per_round: bool = False,
    whitened: Literal["no", "all", "rounds"] = "no",
) -> Tensor:
    """A1_t + beta gamma [sum_{k<t} gamma^(t-k) A1_k] A2_t, [N, K] of one player against the other.

    With `include_now` the sum has k <= t and the extra gamma is left out. Every token of the
    player's message in round t gets the value.

    Args:
        own, other: advantages of the player and of the co-player in the same rollouts, [N, K].
        beta, gamma: 0.5 and 0.9 (iterated prisoner's dilemma), 2.0 and 0.96 (trust and split).
        discount: see `alignment_weights`. signs: use only the sign of the sum (beta 1).
        clip: bound of the sum; per_round: divide it by t + 1.
        whitened: (x - mean) / (std + 1e-9) over everything, or round by round.
    """
    weights = alignment_weights(own, gamma=gamma, include_now=include_now, discount=discount)
    weights = weights if include_now else gamma * weights
    weights = (weights.sign() if signs else weights).clamp(-clip, clip)
    if per_round:
        weights = weights / torch.arange(1, own.shape[1] + 1, device=own.device)
    credits = own + beta * weights * other
    match whitened:
        case "no":
            return credits
        case "all":
            spread = credits.std() if credits.numel() > 1 else torch.ones_like(credits.sum())
            return (credits - credits.mean()) / (spread + 1e-9)
        case "rounds":
            spread = credits.std(0) if len(credits) > 1 else torch.ones_like(credits[0])
            return (credits - credits.mean(0)) / (spread + 1e-9)


@adds("advantages")
def advantage_alignment(
    groups: Tensor,
    mask: Tensor,
    seat: Tensor,
    round_rewards: Tensor,
    other_rewards: Tensor,
    *,
    beta: NonNegative = 0.5,
    gamma: Share = 0.9,
    include_now: bool = False,
    discount: bool = False,
    signs: bool = False,
    clip: NonNegative = torch.inf,
    per_round: bool = False,
    whitened: Literal["no", "all", "rounds"] = "no",
) -> dict[str, Tensor]:
    """`aligned_advantages` on every token of a player's message of a round, [N, T].

    A message is a run of loss tokens. Both players' advantages are `round_advantages`, over the
    games of the group in which the player had the same seat. A round that was not played counts 0.

    Args:
        seat: which player the trajectory is of, [N].
        round_rewards, other_rewards: what a round brought the player and the co-player, at the
            last token of the player's message, [N, T].
    """
    ends = turn_ends(mask)
    games = subgroups(groups, seat)
    own, other = (
        round_advantages(_played(rewards, ends), games, gamma=gamma)
        for rewards in (round_rewards, other_rewards)
    )
    credits = aligned_advantages(
        own,
        other,
        beta=beta,
        gamma=gamma,
        include_now=include_now,
        discount=discount,
        signs=signs,
        clip=clip,
        per_round=per_round,
        whitened=whitened,
    )
    return {"advantages": along_steps(credits, ends, mask)}


def _played(rewards: Tensor, ends: Tensor) -> Tensor:
    """The rewards of the rounds [N, K]; 0 beyond a row's last one."""
    rounds = at_steps(rewards, ends)
    beyond = torch.arange(rounds.shape[1], device=ends.device) >= ends.sum(1, keepdim=True)
    return torch.where(beyond, 0.0, rounds)
