"""Reward shaping and credit inside a response: length, steps, turns, ensembles, filters.

Functions marked `@adds` are estimators for the `advantage` stage, which may overwrite "reward";
the others are pure functions of tensors for rewards, sources and samplers to call.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.groups import group_max, group_min, rank_in_group
from didact.core.bind import adds
from didact.core.ranges import Count, NonNegative


def overlong_penalty(
    lengths: Tensor, *, max_tokens: int, cache: int, factor: float = 1.0
) -> Tensor:
    """0 up to max_tokens - cache, then linear down to -factor at max_tokens and beyond.

    DAPO, arXiv:2503.14476 eq. 13; Trinity-RFT 0.6.0 `dapo_reward.py`. The paper: 20480 and 4096.

    Args:
        lengths: response tokens, [N]. max_tokens, cache: tokens.
    """
    over = lengths.to(torch.float64) - (max_tokens - cache)
    return -factor * (over / cache).clamp(0, 1)


@adds("reward", "overlong")
def shape_overlong(
    rewards: Tensor, lengths: Tensor, *, max_tokens: Count, cache: Count, factor: NonNegative = 1.0
) -> dict[str, Tensor]:
    """Add `overlong_penalty` to the reward, and keep it as the signal "overlong"."""
    penalty = overlong_penalty(lengths, max_tokens=max_tokens, cache=cache, factor=factor)
    return {"reward": rewards + penalty.to(rewards.dtype), "overlong": penalty}


def length_reward(lengths: Tensor, groups: Tensor, success: Tensor) -> Tensor:
    """0.5 - (length - shortest)/(longest - shortest) of the group; failures get min(0, it).

    Kimi k1.5, arXiv:2501.12599 section 2.3.3. 0 if all lengths are equal.
    """
    length = lengths.to(torch.float64)
    least, most = group_min(length, groups), group_max(length, groups)
    spread = torch.where(most > least, most - least, 1.0)
    value = torch.where(most > least, 0.5 - (length - least) / spread, 0.0)
    return torch.where(success > 0, value, value.clamp(max=0))


@adds("reward", "length_reward")
def shape_length(
    rewards: Tensor, lengths: Tensor, groups: Tensor, success: Tensor, *, weight: float = 1.0
) -> dict[str, Tensor]:
    """Add weight x `length_reward` to the reward; the paper starts with weight 0 (a schedule)."""
    value = length_reward(lengths, groups, success)
    return {"reward": rewards + weight * value.to(rewards.dtype), "length_reward": value}


def clipped_steps(process: Tensor, *, threshold: float) -> Tensor:
    """min(p_k - threshold, 0) for every step. Clip of arXiv:2410.15115. process: [..., K]."""
    return (process - threshold).clamp(max=0)


def step_deltas(process: Tensor) -> Tensor:
    """p_k - p_{k+1}, the second last step keeps p, the last gets 0. Delta of arXiv:2410.15115.

    Any sum over steps telescopes to the first p: repeating steps gains nothing. process: [..., K].
    """
    following = torch.cat([process[..., 1:-1], torch.zeros_like(process[..., :1])], -1)
    deltas = process[..., :-1] - following
    return torch.cat([deltas, torch.zeros_like(process[..., :1])], -1)


def clip_then_delta(process: Tensor, *, threshold: float) -> Tensor:
    """Both, in the paper's order; with the final correctness reward as J of arXiv:2410.15115."""
    return step_deltas(clipped_steps(process, threshold=threshold))


def robust_reward(head_means: Tensor, head_stds: Tensor, *, nominal: float) -> Tensor:
    """nominal x (mean of the most certain head) + (1 - nominal) x (lowest mean of all heads).

    BRME, arXiv:2409.15360; the minimum over heads stands for the paper's worst case.

    Args:
        head_means, head_stds: [M, N], Gaussian heads of a reward model.
        nominal: lambda, 0 to 1. Which term the paper's best 0.2-0.4 multiplies is unclear.
    """
    surest = head_means.gather(0, head_stds.argmin(0, keepdim=True))[0]
    return nominal * surest + (1 - nominal) * head_means.amin(0)


def step_advantages(q_after: Tensor, value_before: Tensor) -> Tensor:
    """Q after each step minus Q after the one before. arXiv:2406.14532 and 2410.08146.

    Args:
        q_after: [..., K]; value_before: value of the state before the first step, [...].
    """
    return q_after - torch.cat([value_before[..., None], q_after[..., :-1]], -1)


def process_advantage_reward(
    q_after: Tensor, prover_q_after: Tensor, prover_value: Tensor, *, alpha: float
) -> Tensor:
    """Q of the policy + alpha x advantage of the prover, per step. PAV, arXiv:2410.08146.

    Args:
        q_after, prover_q_after: [..., K]; prover_value: before the first step, [...].
        alpha: 5 (2B model) or 3 (9B) in the paper.
    """
    return q_after + alpha * step_advantages(prover_q_after, prover_value)


def first_pit(q_after: Tensor) -> Tensor:
    """The first step with the lowest Q, int64 [...]: where a failure is cut. arXiv:2406.14532.

    A rejected response that ends there, with an accepted one of the same problem, is one of the
    paper's per-step preference pairs. q_after: [..., K], +inf on padding.
    """
    lowest = q_after == q_after.amin(-1, keepdim=True)
    return lowest.int().argmax(-1)


def turn_ends(mask: Tensor) -> Tensor:
    """The last loss token of every run of loss tokens, bool [N, T]."""
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    return mask & ~following


def turn_rewards(scores: Tensor, mask: Tensor, *, countdown: bool = False) -> Tensor:
    """The score of each turn at its last token, [N, T]. SPA-RL, arXiv:2505.20732.

    Args:
        scores: [N, K], K at least the number of turns of any row; further entries are ignored.
        countdown: multiply turn i by (turns - 1 - i), as the released code does (@ ed200874), so
            that the last turn gets 0.
    """
    ends = turn_ends(mask)
    turn = (ends.long().cumsum(1) - ends.long()).clamp(max=scores.shape[1] - 1)
    placed = scores.gather(1, turn)
    if countdown:
        placed = placed * (ends.sum(1, keepdim=True) - 1 - turn)
    return torch.where(ends, placed, 0.0)


def progress_score(
    progress: Tensor, grounding: Tensor, *, alpha: float = 1.0, beta: float = 0.5
) -> Tensor:
    """alpha x predicted contribution + beta x grounding of a turn. SPA-RL, arXiv:2505.20732."""
    return alpha * progress + beta * grounding


def duration_weights(durations: Tensor) -> Tensor:
    """Wall time of an action over the batch's mean; 1 if none took any. arXiv:2509.01684.

    Args:
        durations: seconds, [N].
    """
    mean = durations.mean()
    return durations / mean if mean > 0 else torch.ones_like(durations)


@adds("advantages")
def duration_weighted(advantages: Tensor, duration: Tensor) -> Tensor:
    """Advantages times `duration_weights`, [N] or [N, T]: slow actions count as their time says.

    Args:
        duration: seconds of a trajectory, [N]; `rollout: {timed: true}` writes it.
    """
    weights = duration_weights(duration)
    return advantages * (weights if advantages.dim() == 1 else weights[:, None])


def filter_weights(
    rewards: Tensor,
    groups: Tensor,
    *,
    rule: Literal["power", "best", "best_and_worst", "best_and_others"],
    power: float = 2.0,
    floor: float = 0.0,
) -> Tensor:
    """How much a response counts under PF-PPO, arXiv:2409.06957, by the rank of its reward, [N].

    `power`: |R|^power; `best`: 1 for the first of the highest (best of n), else 0;
    `best_and_worst`: 1 for the extremes of the group; `best_and_others`: 0.4 for the best, 0.1 for
    the others. Authors (swtheing/PF-PPO-RLHF @ 6b93abf9): by prompt, floor 0. verl 0.9.1: one group
    of the whole batch, floor 1e-8.
    """
    best, worst = rewards == group_max(rewards, groups), rewards == group_min(rewards, groups)
    match rule:
        case "power":
            weights = rewards.abs() ** power
        case "best":
            weights = (rank_in_group(-rewards, groups) == 0).to(rewards.dtype)
        case "best_and_worst":
            weights = (best | worst).to(rewards.dtype)
        case "best_and_others":
            weights = torch.where(best, 0.4, 0.1).to(rewards.dtype)
    return weights + floor


@adds("filter_weight")
def policy_filter(
    rewards: Tensor,
    groups: Tensor,
    draws: Tensor,
    *,
    rule: Literal[
        "power", "best", "best_and_worst", "best_and_others", "best_and_random"
    ] = "best_and_worst",
    power: float = 2.0,
    scope: Literal["group", "batch"] = "group",
) -> dict[str, Tensor]:
    """`filter_weights` as the signal "filter_weight": to keep members by, or to weigh a loss with.

    Args:
        rule: as there, and `best_and_random`: 1 for the best and one other, drawn at random.
        draws: uniform random numbers, [N].
    """
    within = groups if scope == "group" else torch.zeros_like(groups)
    if rule != "best_and_random":
        return {"filter_weight": filter_weights(rewards, within, rule=rule, power=power)}
    best = filter_weights(rewards, within, rule="best")
    other = (rank_in_group(torch.where(best > 0, torch.inf, draws), within) == 0).to(best.dtype)
    return {"filter_weight": torch.maximum(best, other)}
