"""The effective rank of hidden states, and of how they grow along a response."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

RANK_STRIDES: Mapping[str, int] = {"ranks8": 8, "ranks20": 20, "ranks40": 40}
"""Readouts of ranks by name, and the tokens between two of them: 40 and 20 are those of VERL's
script and of its config, 8 is for short responses."""


def effective_rank(hidden: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of tokens x dim, centred over tokens.

    Args:
        hidden: [L, D]. Returns a scalar, at least 1.
    """
    singular: Tensor = torch.linalg.svdvals(hidden - hidden.mean(0, keepdim=True))
    share = singular / (singular.sum() + 1e-8)
    entropy: Tensor = -(share * (share + 1e-8).log()).sum()
    return entropy.exp()


@torch.no_grad()
def rank_column(hidden: Tensor, stride: int) -> Tensor:
    """Ranks of the beginnings that end at tokens S, 2S, … and at the last one; 0 elsewhere, [L].

    Args:
        hidden: [L, D].
        stride: S.
    """
    column = hidden.new_zeros(len(hidden), dtype=torch.float32)
    ends = {*range(stride, len(hidden), stride), len(hidden) - 1}
    for end in sorted(ends) if len(hidden) else ():
        column[end] = effective_rank(hidden[: end + 1].float())
    return column
