"""Advantages of whole responses from the rewards of a group: one number per trajectory.

All read tensors over the N trajectories of a step and return [N]; the loss spreads the number over
the response's tokens. Known names for settings of `group_norm`: GRPO (the defaults), Dr. GRPO,
prime-rl, REC and OPMD with a mean baseline (`scale: none`), LitePPO (`scale: batch`), REC with
std (`ddof: 0`), TRL (`eps: 1e-4`), RLPR (`flat_below: 1e-6`), LOOP without leave-one-out
(`ddof: 0, eps: 1e-7, guard: floor`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.groups import (
    Guard,
    Singleton,
    centred,
    divided,
    group_max,
    group_size,
    group_std,
    group_sum,
    is_flat,
    rank_in_group,
)
from didact.core.ranges import NonNegative, Positive, Whole

Scale = Literal["group", "batch", "none"]
"""Divide by the standard deviation of the group, of all rewards of the step, or not at all."""


def group_norm(
    rewards: Tensor,
    groups: Tensor,
    *,
    scale: Scale = "group",
    ddof: Whole = 1,
    eps: NonNegative = 1e-6,
    guard: Guard = "add",
    singleton: Singleton = "raw",
    flat_below: NonNegative = 0.0,
) -> Tensor:
    """(R - mean of the group) / std. GRPO, arXiv:2402.03300 section 4.1.2, as in verl 0.9.1.

    Args:
        rewards, groups: [N].
        scale: `none` is Dr. GRPO (arXiv:2503.20783), `batch` LitePPO (arXiv:2508.08221).
        ddof: 1 for the sample standard deviation, 0 for the population's.
        eps, guard: the small number and where it stands.
        singleton: a group of one; `raw` is verl's rule (mean 0, std 1).
        flat_below: groups with a standard deviation below this get 0 (RLPR; Trinity's threshold).
    """
    deviation = centred(rewards, groups, singleton)
    if flat_below:
        flat = (group_std(rewards, groups, ddof) < flat_below) & (group_size(groups) > 1)
        deviation = torch.where(flat, 0.0, deviation)
    return _scaled(deviation, rewards, groups, scale, ddof, eps, guard)


def _scaled(
    deviation: Tensor,
    rewards: Tensor,
    groups: Tensor,
    scale: Scale,
    ddof: int,
    eps: float,
    guard: Guard,
) -> Tensor:
    if scale == "none":
        return deviation
    among = groups if scale == "group" else torch.zeros_like(groups)
    return divided(deviation, group_std(rewards, among, ddof), eps, guard)


def split_norm(
    rewards: Tensor,
    groups: Tensor,
    on_policy: Tensor,
    *,
    scale: Literal["group", "none"] = "group",
    ddof: Whole = 1,
    eps: NonNegative = 1e-6,
) -> Tensor:
    """`group_norm` whose mean and std are those of the on-policy members; all rows get a value.

    LUFFY's `grpo_split` (ElliottYan/LUFFY, `mix_core_alg.py`): a standard deviation of 0 counts as
    1; with fewer than two on-policy members the baseline is 0.

    Args:
        on_policy: 1 for rows that the current policy sampled, else 0, [N].
    """
    weight = on_policy.to(rewards.dtype)
    count = group_sum(weight, groups)
    enough = count > 1
    mean = torch.where(enough, group_sum(rewards * weight, groups) / count.clamp(min=1), 0.0)
    deviation = rewards - mean
    if scale == "none":
        return deviation
    squares = group_sum(weight * deviation**2, groups)
    std = (squares / (count - ddof).clamp(min=1)).sqrt()
    return deviation / (torch.where(enough & (std > 0), std, 1.0) + eps)


def leave_one_out(
    rewards: Tensor,
    groups: Tensor,
    *,
    scale: Scale = "none",
    ddof: Whole = 1,
    eps: NonNegative = 1e-6,
    guard: Guard = "add",
    singleton: Singleton = "zero",
    zero_below: NonNegative = 0.0,
) -> Tensor:
    """R - mean of the others = (R - group mean) G/(G-1). RLOO, arXiv:2402.14740.

    PipelineRL: `scale: group, eps: 1e-4`. LOOP (arXiv:2502.01600, apple/ml-loop `train.py`):
    `zero_below: 0.01`; its normalised option is `scale: group, ddof: 0, eps: 1e-7, guard: floor`.

    Args:
        singleton: verl's loop keeps the reward (`raw`), its vectorised form gives 0 (`zero`).
        zero_below: smaller absolute values become 0, before any division.
    """
    size = group_size(groups).to(rewards.dtype)
    alone = centred(rewards, groups, singleton)
    deviation = torch.where(size > 1, alone * size / (size - 1).clamp(min=1), alone)
    deviation = torch.where(deviation.abs() < zero_below, 0.0, deviation)
    return _scaled(deviation, rewards, groups, scale, ddof, eps, guard)


def remax(rewards: Tensor, baseline: Tensor) -> Tensor:
    """R - reward of a greedy answer to the same prompt. ReMax, arXiv:2310.10505."""
    return rewards - baseline


def opo(rewards: Tensor, groups: Tensor, lengths: Tensor) -> Tensor:
    """R - length-weighted mean of the group. OPO, arXiv:2505.23585; a group of one keeps R."""
    weight = lengths.to(rewards.dtype)
    total = group_sum(weight, groups)
    weight = torch.where(total > 0, weight, 1.0)
    baseline = group_sum(weight * rewards, groups) / group_sum(weight, groups)
    deviation = torch.where(is_flat(rewards, groups), 0.0, rewards - baseline)
    return torch.where(group_size(groups) == 1, rewards, deviation)


def gpg(rewards: Tensor, groups: Tensor, *, f_norm: Positive = 1.0) -> Tensor:
    """alpha (R - group mean) / f_norm, alpha = N / rows with a reward other than 0.

    GPG, arXiv:2504.02546, as in verl 0.9.1.
    """
    alpha = len(rewards) / max(int((rewards != 0).sum()), 1)
    return alpha * centred(rewards, groups) / f_norm


def pass_at_k(
    rewards: Tensor,
    groups: Tensor,
    *,
    scale: Literal["group", "none"] = "group",
    eps: NonNegative = 1e-6,
) -> Tensor:
    """Only the best of a group: (best - second) / (std + eps). arXiv:2503.19595, as in verl 0.9.1.

    A group of one has no second and gets 0 (verl refuses it).
    """
    rank = rank_in_group(-rewards, groups)
    best = group_max(rewards, groups)
    others = torch.where(rank == 0, -torch.inf, rewards)
    lead = best - group_max(others, groups)
    lead = torch.where((rank == 0) & (group_size(groups) > 1), lead, 0.0)
    return lead if scale == "none" else lead / (group_std(rewards, groups) + eps)


def asym_re(rewards: Tensor, groups: Tensor, *, shift: float = -0.1) -> Tensor:
    """R - (group mean + shift). AsymRE, arXiv:2506.20520, as in Trinity-RFT 0.6.0.

    A negative shift emphasises successes. A group of one keeps its reward, unshifted.
    """
    shifted = centred(rewards, groups) - shift
    return torch.where(group_size(groups) == 1, rewards, shifted)


def opmd(
    rewards: Tensor, groups: Tensor, *, temperature: Positive, singleton: Singleton = "raw"
) -> Tensor:
    """R - tau log mean exp(R / tau) over the group. OPMD, arXiv:2501.12599; Trinity-RFT 0.6.0.

    With the mean as baseline it is `group_norm` without scale.
    """
    top = group_max(rewards, groups)
    mass = group_sum(((rewards - top) / temperature).exp(), groups)
    log_mean = (mass / group_size(groups).to(rewards.dtype)).log()
    deviation = torch.where(is_flat(rewards, groups), 0.0, rewards - (top + temperature * log_mean))
    return torch.where((group_size(groups) == 1) & (singleton == "raw"), rewards, deviation)


def raw_reward(rewards: Tensor) -> Tensor:
    """R itself: REINFORCE without a baseline."""
    return rewards.clone()


def positive_reward(rewards: Tensor) -> Tensor:
    """max(R, 0): RAFT and RAFT++ (arXiv:2304.06767; RLHFlow/Minimal-RL @ e3b49f09)."""
    return rewards.clamp(min=0)


def mixed_reward(rewards: Tensor, groups: Tensor) -> Tensor:
    """R in groups whose rewards differ, else 0: Reinforce-Rej (RLHFlow/Minimal-RL @ e3b49f09).

    A group of one keeps its reward.
    """
    keep = ~is_flat(rewards, groups) | (group_size(groups) == 1)
    return torch.where(keep, rewards, 0.0)


def balanced_reward(
    rewards: Tensor, *, positive: NonNegative = 5.0, negative: NonNegative = 2.0
) -> Tensor:
    """positive x share of the others where R > 0, else -negative x share of the others.

    Both sides of the batch then sum to the same up to these factors. In ROVER's maths code
    (tinnerhrhe/ROVER @ b0fa5878, `compute_rover_outcome_advantage`), not used by its script.
    """
    good = rewards > 0
    share = good.to(rewards.dtype).mean()
    return torch.where(good, positive * (1 - share), -negative * share)
