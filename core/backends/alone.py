"""Whether a model makes of rows side by side what it makes of each alone, tried on a few tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from didact.core.backends.attention import NAME

LENGTHS = (3, 5, 2)


def tried(vocabulary: int) -> list[Tensor]:
    """Rows of unequal length, shorter than any sliding window, int64 on the CPU."""
    ids = (7 * torch.arange(sum(LENGTHS)) + 3) % vocabulary
    return list(torch.split(ids, list(LENGTHS)))


def begun_otherwise(row: Tensor, vocabulary: int) -> Tensor:
    """The row with another first token."""
    return torch.cat([(row[:1] + 1) % vocabulary, row[1:]])


def same(together: Tensor, alone: Tensor, moved: Tensor) -> bool:
    """Whether rows side by side differ from themselves by rounding only.

    Rounding is far less than what another first token of a row changes: a thousandth, or in half
    precision a fifth. So fresh models, whose tokens hardly see each other, are told apart too.

    Args:
        together, alone: what a model makes of rows, of one shape.
        moved: by how much another first token changes what it makes of the later ones.
    """
    eps = torch.finfo(alone.dtype).eps
    share = 1e-3 if eps < 1e-6 else 0.2
    most = share * _size(moved) + 2 * eps * _size(alone)
    return not _size(together - alone) > most  # what is no number is found elsewhere


def _size(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def recurrent(config: Any) -> bool:
    """Whether layers hand on a state from token to token, as linear attention and Mamba do."""
    from transformers import DynamicCache, cache_utils

    kind = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())
    return any(isinstance(layer, kind) for layer in DynamicCache(config=config).layers)


def called(config: Any) -> str:
    """The model's type and attention, as a recipe calls it."""
    attention = config._attn_implementation
    return f"model type '{config.model_type}' with 'attention: " + (
        "packed'" if attention == NAME else f"{attention}'"
    )
