"""Group advantages that need more than rewards: strata, ranks, drops, bonuses, global counts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.advantages import group_norm
from didact.algorithms.groups import (
    divided,
    group_mean,
    group_size,
    group_std,
    group_sum,
    rank_in_group,
    subgroups,
)
from didact.core.bind import adds
from didact.core.ranges import Count, NonNegative, Positive, Share, Whole


@adds("advantages", "kept")
def red_drop(
    rewards: Tensor,
    groups: Tensor,
    draws: Tensor,
    *,
    scale: Literal["group", "none"] = "none",
    eps: NonNegative = 1e-6,
) -> dict[str, Tensor]:
    """Drop surplus failures at random, then centre on what is kept. RED-Drop, arXiv:2509.24203.

    As Trinity-RFT 0.6.0 `rec_advantage.py`: rewards at or above the group mean are positive; if
    the others outnumber them, as many as exceed are dropped and get 0; population std. If at most
    one is kept the baseline is 0.

    Args:
        draws: uniform random numbers [N]; the failures with the smallest are dropped.

    Returns:
        "advantages" [N], and "kept" [N]: 1 or 0.
    """
    negative = rewards < group_mean(rewards, groups)
    failures = group_sum(negative.long(), groups)
    surplus = 2 * failures - group_size(groups)
    rank = rank_in_group(torch.where(negative, draws, torch.inf), groups)
    kept = (~(negative & (rank < surplus))).to(rewards.dtype)
    count = group_sum(kept, groups)
    mean = group_sum(kept * rewards, groups) / count.clamp(min=1)
    squares = group_sum(kept * (rewards - mean) ** 2, groups)
    std = torch.where(count > 1, squares / count.clamp(min=1), 1.0).sqrt()
    deviation = kept * (rewards - torch.where(count > 1, mean, 0.0))
    advantages = deviation if scale == "none" else divided(deviation, std, eps, "add")
    return {"advantages": advantages, "kept": kept}


def red_weight(
    rewards: Tensor, groups: Tensor, *, temperature: Positive = 1.0, weighted_baseline: bool = False
) -> Tensor:
    """A exp(A / temperature), A = R - group mean. RED-Weight, arXiv:2509.24203.

    Trinity-RFT 0.6.0 uses the plain mean; the paper also allows the mean weighted by
    exp(A / temperature) as baseline of the outer A.
    """
    plain = group_norm(rewards, groups, scale="none")
    weight = (plain / temperature).exp()
    if not weighted_baseline:
        return plain * weight
    baseline = group_sum(weight * plain, groups) / group_sum(weight, groups)
    centre = torch.where(group_size(groups) > 1, baseline, 0.0)
    return (plain - centre) * weight


def rank_penalised(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    behavior_logprobs: Tensor,
    *,
    penalty: Share,
    eps: NonNegative = 1e-6,
) -> Tensor:
    """(R - m) / (s + eps) with m and s of R (1 - penalty rank / G). Trinity-RFT 0.6.0 GRPO.

    The rank, from 0, ascends with the mean log-probability of the response. As released, the
    numerator keeps the unpenalised reward.

    Args:
        mask, behavior_logprobs: [N, T].
    """
    tokens = mask.to(behavior_logprobs.dtype)
    likelihood = (behavior_logprobs * tokens).sum(1) / tokens.sum(1).clamp(min=1)
    size = group_size(groups)
    share = rank_in_group(likelihood, groups).to(rewards.dtype) / size
    penalised = rewards * (1 - penalty * share)
    mean = torch.where(size > 1, group_mean(penalised, groups), 0.0)
    return (rewards - mean) / (group_std(penalised, groups) + eps)


def stratified(
    rewards: Tensor,
    groups: Tensor,
    strata: Tensor,
    *,
    alpha: Share = 1.0,
    ddof: Whole = 1,
    eps: NonNegative = 1e-6,
) -> Tensor:
    """alpha (R - stratum mean) / (stratum std + eps) + (1 - alpha) GRPO. SAN, arXiv:2510.06214.

    Reconstruction: ddof, eps and the rule that a stratum of one gets 0 are our choices.

    Args:
        strata: what a group is split by, [N], such as the number of tool calls.
    """
    within = group_norm(rewards, subgroups(groups, strata), ddof=ddof, eps=eps, singleton="zero")
    overall = group_norm(rewards, groups, ddof=ddof, eps=eps, singleton="zero")
    return alpha * within + (1 - alpha) * overall


def pass_bonus(solved: Tensor, groups: Tensor, *, k: int = 4, eps: float = 1e-6) -> Tensor:
    """The bonus of GREAM (Indolent-Kawhi/GRRM @ d85bd174, `calc_adv`) towards pass@k.

    With n rows of which c are solved, rho = 1 - C(n-c, k)/C(n, k), sigma = sqrt(rho (1 - rho)):
    solved rows get (1 - rho)/(sigma + eps), others
    (1 - rho - C(n-c-1, k-1)/C(n-1, k-1))/(sigma + eps). In a group smaller than k, k is its size.

    Args:
        solved: bool [N].
    """
    size = group_size(groups).double()
    failed = size - group_sum(solved.double(), groups)
    draws = size.clamp(max=k)
    none = _all_failed(failed, size, draws, k)
    others = _all_failed(failed - 1, size - 1, draws - 1, k)
    rho = 1 - none
    sigma = (rho * (1 - rho)).clamp(min=0).sqrt() + eps
    return torch.where(solved, (1 - rho) / sigma, (1 - rho - others) / sigma)


def _all_failed(failed: Tensor, size: Tensor, draws: Tensor, most: int) -> Tensor:
    """C(failed, draws) / C(size, draws) as a product of at most `most` factors."""
    chance = torch.ones_like(size)
    for drawn in range(most):
        factor = (failed - drawn).clamp(min=0) / (size - drawn).clamp(min=1)
        chance = torch.where(drawn < draws, chance * factor, chance)
    return chance


def gream(
    rewards: Tensor,
    groups: Tensor,
    *,
    k: Count = 4,
    solved_at: float = 1.0,
    scale: Literal["group", "none"] = "group",
    eps: NonNegative = 1e-6,
) -> Tensor:
    """GRPO plus `pass_bonus` for rows whose reward is `solved_at`. GREAM, arXiv:2510.20815."""
    bonus = pass_bonus(rewards == solved_at, groups, k=k, eps=eps).to(rewards.dtype)
    return group_norm(rewards, groups, scale=scale, eps=eps) + bonus


def counted_norm(
    rewards: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    scale: Literal["group", "none"] = "none",
    eps: NonNegative = 1e-6,
) -> Tensor:
    """R - p of *all* samples drawn for the prompt, not only those kept. Reinforce-Ada, 2510.04996.

    p = P/(P+N); the optional std is the sample std of these 0/1 outcomes, at least eps
    (RLHFlow/Reinforce-Ada @ 05be6058). With no sample counted p is 0 and std 1.

    Args:
        positives, negatives: how many of either the prompt has seen, [N].
    """
    total = positives + negatives
    rate = positives / total.clamp(min=1)
    if scale == "none":
        return (rewards - rate).to(rewards.dtype)
    variance = total * rate * (1 - rate) / (total - 1).clamp(min=1)
    std = torch.where(total > 1, variance.sqrt().clamp(min=eps), 1.0)
    return ((rewards - rate) / (std + eps)).to(rewards.dtype)
