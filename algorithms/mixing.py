"""How much each source of a mixed batch counts: by success, by shortfall, or by learned noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def by_success(success_rate: Tensor, *, coefficients: Sequence[float]) -> Tensor:
    """Weight a row by how many of its group succeeded: `coefficients[count]`.

    HPT's soft variant (arXiv:2509.04419; `mix_trainer.py` at ae332f5) has one such table each for
    its rollouts, for the demonstration as a policy gradient, and for it as supervision. A group of
    n has n + 1 counts. AHPO's gate (1 while fewer than R successes, 0 from then on) is a table of
    ones and zeros; as a choice of rows it is `where: {success_rate: {below: R/n}}`.

    Args:
        success_rate: share of the group that succeeded, [B].
        coefficients: for 0, 1, ..., n successes.

    Returns:
        [B].
    """
    if len(coefficients) < 2:
        raise ValueError(
            f"by_success: needs a coefficient for every count 0..n, got {len(coefficients)}"
        )
    size = len(coefficients) - 1
    counts = success_rate.double() * size
    nearest = counts.round().clamp(0, size)
    odd = ~((counts - nearest).abs() <= 1e-3)  # also what is no number
    if bool(odd.any()):
        raise ValueError(
            f"by_success: {len(coefficients)} coefficients are for groups of {size}, but a success "
            f"rate of {float(success_rate[odd][0]):.4f} is no multiple of 1/{size}"
        )
    table = torch.tensor(list(coefficients), dtype=torch.float64, device=success_rate.device)
    return table[nearest.long()].to(success_rate.dtype)


def shortfall(reward_mean: Tensor, *, target: float) -> Tensor:
    """Weight max(0, target - mean reward): supervision fades as the group does better.

    The adaptive mu of CHORD (arXiv:2508.11408), per group instead of per batch.

    Args:
        reward_mean: of the row's group, [B].
        target: mean reward from which on the weight is 0.

    Returns:
        [B].
    """
    return (target - reward_mean).clamp(min=0.0)


def by_noise(loss: Tensor, log_sigma: Tensor, share: float = 1.0) -> Tensor:
    """exp(-2 s) L + s: a loss weighted by its learned noise, s = log sigma.

    Kendall et al. 2018, arXiv:1705.07115, in the form of the learned variant of SuperRL
    (arXiv:2506.01096). At its minimum exp(-2 s) = 1 / (2 L) if L > 0; otherwise s falls without
    end, so it needs a lower bound. A term does this to its loss with `weight: {learned: s}`.

    Args:
        loss: scalar L, or the part of it that comes from some rows.
        log_sigma: s, scalar, with gradient.
        share: of s that these rows stand for; the shares of all rows add up to 1.

    Returns:
        Scalar.
    """
    return (-2 * log_sigma).exp() * loss + share * log_sigma
