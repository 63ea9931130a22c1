"""One attention for packed rows, right-padded rows and cached decoding, without dense masks.

Registered with transformers under the name `NAME`. transformers makes no mask for a name that it
has no mask function for, so a mask arrives only if the caller gives a 4-D one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from didact.core.errors import RunError

NAME = "didact_packed"


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the rows of a `[1, total]` sequence begin and end.

    Attributes:
        lengths: of each row, int64 [R], on the CPU.
        device: of the tokens.
    """

    lengths: Tensor
    device: torch.device

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def boundaries(self) -> Tensor:
        """0 and the cumulative lengths, int32 [R + 1]."""
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths.cumsum(0)])
        return ends.to(self.device, torch.int32, non_blocking=True)

    @cached_property
    def cells(self) -> Tensor:
        """Position of every token in the padded [R x longest] layout, int64 [total]."""
        starts = torch.arange(len(self.lengths)) * self.longest
        return spans(starts, self.lengths).to(self.device, non_blocking=True)

    @cached_property
    def positions(self) -> Tensor:
        """Position of every token in its row, int64 [1, total]."""
        return (self.cells % self.longest)[None]


def spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, … of each span, one span after another; int64 [sum of lengths]."""
    before = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(starts - before, lengths)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention over query [B, H, S, D], key and value [B, H_kv, S_kv, D].

    Returns:
        [B, S, H, D], and no attention weights.
    """
    _refuse(unused, key.shape[2] if packing is None else packing.longest)
    if packing is None:
        causal = attention_mask is None and query.shape[2] > 1
        out = _dense(query, key, value, attention_mask, causal, scaling)
        return out.transpose(1, 2).contiguous(), None
    flash = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    rows = _flash if flash else _by_row
    return rows(query, key, value, packing, scaling), None


def _refuse(options: dict[str, Any], longest: int) -> None:
    window = options.get("sliding_window")
    if window is not None and longest > window:
        raise RunError(
            f"a sequence of {longest} tokens exceeds the model's sliding window of {window}, which "
            f"this attention does not have: set the model's 'attention: sdpa'."
        )
    for name in ("softcap", "s_aux"):
        if options.get(name) is not None:
            raise RunError(f"the model's attention uses '{name}': set its 'attention: eager'.")


def _dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
) -> Tensor:
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _by_row(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None
) -> Tensor:
    """Pads inside the attention only; everything else of the model runs on real tokens."""

    def padded(packed: Tensor) -> Tensor:
        _, heads, _, size = packed.shape
        out = packed.new_zeros(len(packing.lengths) * packing.longest, heads, size)
        out = out.index_copy(0, packing.cells, packed[0].transpose(0, 1))
        return out.view(len(packing.lengths), packing.longest, heads, size).transpose(1, 2)

    out = _dense(padded(query), padded(key), padded(value), None, True, scaling)
    return out.transpose(1, 2).flatten(0, 1)[packing.cells][None]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = packing.boundaries, packing.longest
    out = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1).contiguous(),
        value[0].transpose(0, 1).contiguous(),
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None]


def register(function: Callable[..., tuple[Tensor, None]] = attend) -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, function)
    return NAME
