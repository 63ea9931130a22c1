"""Losses of a model that spreads an episode's return over its steps: LaRe, RD and RRD."""

from __future__ import annotations

import torch
from torch import Tensor


def return_decomposition(step_rewards: Tensor, lengths: Tensor, returns: Tensor) -> Tensor:
    """MSE of (sum of predicted step rewards)/L against R/L. RD in LaRe, arXiv:2412.11120.

    As thu-rllab/LaRe @ 332cbe96 `RD.py`; steps beyond an episode's length do not count.

    Args:
        step_rewards: [B, L], with gradient; lengths, returns: [B]. Returns a scalar.
    """
    steps = torch.arange(step_rewards.shape[1], device=step_rewards.device)
    inside = steps < lengths[:, None]
    total = torch.where(inside, step_rewards, 0.0).sum(1)
    return ((total - returns) / lengths).square().mean()


def randomised_decomposition(
    step_rewards: Tensor,
    lengths: Tensor,
    returns: Tensor,
    steps: Tensor,
    *,
    unbiased: bool = True,
) -> Tensor:
    """MSE of the mean of K sampled step rewards against R/L. RRD in LaRe, arXiv:2412.11120.

    `unbiased` takes off the variance of the sample: mean[(1 - K/L) Var_K / K], Var_K with K - 1.

    Args:
        step_rewards: [B, L], with gradient; lengths, returns: [B].
        steps: the sampled steps of each episode, int64 [B, K], drawn by the caller.
    """
    sampled = step_rewards.gather(1, steps)
    drawn = steps.shape[1]
    loss = (sampled.mean(1) - returns / lengths).square().mean()
    if not unbiased or drawn < 2:
        return loss
    spread = sampled.var(1, unbiased=True)
    return loss - ((1 - drawn / lengths) * spread / drawn).mean()
