"""Shapes, masked sums and ratios that the losses share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Level = Literal["token", "sequence", "geometric"]
"""What a ratio is taken of: one token, the whole sequence (product over its tokens), or the
sequence with the product's geometric mean (its |y|-th root)."""

LIMIT = 20.0
"""Log-ratios are clamped to +-20 before `exp`, as verl 0.9.1 core_algos.py does: e^20 = 4.9e8."""


def per_token(value: Tensor, like: Tensor) -> Tensor:
    """A signal [B] or column [B, T] in a shape and dtype that multiply with the column `like`."""
    if value.dim() == 1:
        value = value[:, None]
    if value.shape[0] != like.shape[0] or value.shape[1] not in (1, like.shape[1]):
        raise ValueError(
            f"expected one value per row [{like.shape[0]}] or per token {tuple(like.shape)}, "
            f"got {tuple(value.shape)}."
        )
    return value.to(like.dtype)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the tokens of the mask, [B, T] -> [B]; what lies outside does not matter."""
    return torch.where(mask, values, 0.0).sum(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of the mask, [B, T] -> [B]; 0 for a row without tokens."""
    return masked_sum(values, mask) / mask.sum(1).clamp(min=1)


def log_ratio(new: Tensor, old: Tensor, *, limit: float = LIMIT) -> Tensor:
    """log(new / old) per token, clamped to +-limit (no gradient outside). Stops at `old`."""
    return (new - old.detach()).clamp(-limit, limit)


def log_ratio_at(
    new: Tensor, old: Tensor, mask: Tensor, *, level: Level, limit: float = LIMIT
) -> Tensor:
    """log(new / old) of a token [B, T], or of its sequence [B, 1], clamped to +-limit."""
    difference = new - old.detach()
    match level:
        case "token":
            return difference.clamp(-limit, limit)
        case "sequence":
            return masked_sum(difference, mask)[:, None].clamp(-limit, limit)
        case "geometric":
            return masked_mean(difference, mask)[:, None].clamp(-limit, limit)


def whole_mini_batch(weight: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Declare that a weight ranks or averages over all rows it is given.

    It belongs under `select`, where it sees the whole mini-batch at once and reads frozen columns;
    under `times` its result would depend on the micro-batch size.
    """
    weight.whole_mini_batch = True  # type: ignore[attr-defined]
    return weight


def interpolated_logprobs(
    logprobs: Tensor,
    behavior_logprobs: Tensor,
    age: Tensor,
    *,
    space: Literal["log", "probability"],
) -> Tensor:
    """Log-probabilities of the policy one version ago, between the sampler's and the live ones.

    With `age` versions between them, a = (age - 1) / age (0 for age <= 1): behavior + a (lp -
    behavior), or log of the like mean of the probabilities. AReaL@4aef98d8
    `compute_prox_logp_approximations`. Detached.

    Shapes: logprobs, behavior_logprobs [B, T], age [B] or [B, T]; returns [B, T].
    """
    new, old = logprobs.detach(), behavior_logprobs.detach()
    versions = per_token(age, new)
    share = (versions - 1).clamp(min=0) / versions.clamp(min=1)
    if space == "log":
        return old + share * (new - old)
    return ((1 - share) * old.exp() + share * new.exp() + 1e-10).log()
