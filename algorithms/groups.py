"""Statistics over groups of rows, vectorised: each function answers every row for its group.

`groups` is int64 [N], equal within a group, numbers below N; values are [N] or [N, T], and keep
their dtype. Row order and interleaving of groups do not matter.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Guard = Literal["add", "floor", "inside"]
"""Where the small number stands: x / (std + eps), x / max(std, eps), x / sqrt(var + eps)."""

Singleton = Literal["raw", "zero"]
"""A group of one: its reward as it is (verl: mean 0, std 1), or no signal at all."""


def group_sum(values: Tensor, groups: Tensor) -> Tensor:
    """Sum of the row's group."""
    total = torch.zeros_like(values).index_add_(0, groups, values)  # no more groups than rows
    return total[groups]


def group_size(groups: Tensor) -> Tensor:
    """Number of rows in the row's group, int64 [N]."""
    return group_sum(torch.ones_like(groups), groups)


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of the row's group."""
    return _mean(values, groups, group_size(groups))


def _mean(values: Tensor, groups: Tensor, size: Tensor) -> Tensor:
    wide = size.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return group_sum(values, groups) / wide


def group_std(values: Tensor, groups: Tensor, ddof: int = 1) -> Tensor:
    """Standard deviation of the row's group, values [N]; 1 for a group of at most `ddof` rows."""
    size = group_size(groups)
    freedom = (size - ddof).to(values.dtype)
    squares = group_sum((values - _mean(values, groups, size)) ** 2, groups)
    return torch.where(freedom > 0, squares / freedom.clamp(min=1), 1.0).sqrt()


def group_max(values: Tensor, groups: Tensor) -> Tensor:
    """Largest value of the row's group, values [N]."""
    return _extreme(values, groups, "amax")


def group_min(values: Tensor, groups: Tensor) -> Tensor:
    """Smallest value of the row's group, values [N]."""
    return _extreme(values, groups, "amin")


def _extreme(values: Tensor, groups: Tensor, which: Literal["amax", "amin"]) -> Tensor:
    out = torch.zeros_like(values)
    return out.scatter_reduce_(0, groups, values, which, include_self=False)[groups]


def is_flat(values: Tensor, groups: Tensor) -> Tensor:
    """Whether all values of the row's group are equal, bool [N]; True for a group of one."""
    return group_max(values, groups) == group_min(values, groups)


def rank_in_group(values: Tensor, groups: Tensor) -> Tensor:
    """Ascending rank within the group, int64 [N], from 0; the earlier row of a tie comes first."""
    order = values.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    places = torch.arange(len(groups), device=groups.device)
    starts = group_min(places, ordered)
    return torch.empty_like(groups).scatter_(0, order, places - starts)


def subgroups(groups: Tensor, keys: Tensor) -> Tensor:
    """Groups split by a key, int64 [N]: rows share one if they share both group and key."""
    codes = _codes(keys)
    span = int(codes.max()) + 1 if len(codes) else 1
    return _codes(groups * span + codes)


def _codes(keys: Tensor) -> Tensor:
    """Equal keys get equal numbers from 0, int64."""
    codes: Tensor = torch.unique(keys, return_inverse=True)[1]
    return codes


def centred(values: Tensor, groups: Tensor, singleton: Singleton = "raw") -> Tensor:
    """Deviation from the group's mean, [N]; exactly 0 in a group whose values are all equal."""
    size = group_size(groups)
    deviation = values - _mean(values, groups, size)
    deviation = torch.where(is_flat(values, groups), 0.0, deviation)
    return deviation if singleton == "zero" else torch.where(size == 1, values, deviation)


def divided(values: Tensor, std: Tensor, eps: float, guard: Guard) -> Tensor:
    """Values over a standard deviation that may be 0."""
    match guard:
        case "add":
            return values / (std + eps)
        case "floor":
            return values / std.clamp(min=eps)
        case "inside":
            return values / (std**2 + eps).sqrt()
