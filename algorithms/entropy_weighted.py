"""Weights from the policy's entropy: of a whole response, or to choose its undecided tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from didact.algorithms.tensors import masked_mean, whole_mini_batch
from didact.core.ranges import Share


def sequence_entropy(entropy: Tensor, mask: Tensor, *, sign: float = -1.0) -> Tensor:
    """Weight exp(sign x mean entropy of the row), without gradient.

    SRFT (arXiv:2506.19767) trusts a demonstration by 0.5 exp(-H) (sign -1) and its own correct
    responses by 0.1 exp(H) (sign 1); the factors are the term's weight. H is the mean over the
    row's loss tokens, as HPT's version (`mix_actor.py` at ae332f5).

    Args:
        entropy: of the policy at each token, in nats, [B, T].
        mask: loss tokens, bool [B, T].
        sign: -1 for the demonstrations, 1 for the policy's own responses.

    Returns:
        [B], above 0; 1 for a row without loss tokens.
    """
    return (sign * masked_mean(entropy.detach(), mask)).exp()


@whole_mini_batch
def top_entropy(old_entropy: Tensor, mask: Tensor, *, drop: Share = 0.8) -> Tensor:
    """Select the tokens of highest entropy in the whole mini-batch: 1 for them, 0 for the others.

    Of the N tokens of the term the floor(drop x N) with the lowest entropy are dropped. Prefix-RFT
    (arXiv:2507.01679) so trains the most uncertain fifth of the demonstration's prefix; the
    released code (`dp_actor.py::reshape_func` at 5f5d2a1) ranks within a micro-batch, we within
    the mini-batch, so that the choice does not depend on memory. `entropy_quantile` keeps by value
    instead of by rank, so ties stay together.

    Args:
        old_entropy: of the policy before the phase, in nats, [B, T].
        mask: the term's tokens, bool [B, T].
        drop: share that is dropped, in [0, 1].

    Returns:
        [B, T], 0 or 1; 1 outside of `mask`.
    """
    if not 0.0 <= drop <= 1.0:
        raise ValueError(f"top_entropy: drop must be in [0, 1], got {drop}")
    values = old_entropy[mask]
    kept = torch.ones_like(values)
    kept[torch.argsort(values, stable=True)[: int(drop * len(values))]] = 0.0
    out = torch.ones_like(old_entropy)
    out[mask] = kept
    return out
