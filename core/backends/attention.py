"""One attention for packed rows, right-padded rows and cached decoding, without dense masks.

Registered with transformers under the name `NAME`. transformers makes no mask for a name that it
has no mask function for, so a mask arrives only if the caller gives a 4-D one.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from didact.core.errors import RunError

NAME = "didact_packed"
WIDEST = 256
"""Size of a head that the variable-length kernels serve at most."""
log = logging.getLogger(__name__)


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
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    rows = _kernel(query.device, query.shape[-1]) if half else _by_row
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
    """By torch's kernel, to its documented interface of 2.11 to 2.13; not run on a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    grouped: dict[str, Any] = {}
    if query.shape[1] != key.shape[1] and "enable_gqa" in _keywords(varlen_attn):
        grouped = {"enable_gqa": True}
    elif query.shape[1] != key.shape[1]:
        times = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(times, 1) for each in (key, value))
    rows = _by_token(query, key, value, packing)
    out = varlen_attn(*rows, scale=scaling, window_size=(-1, 0), **grouped)
    assert isinstance(out, Tensor)
    return out[None]


def _flash_package(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None
) -> Tensor:
    """By the package flash-attn, to its documented interface of 2.x; not run on a GPU."""
    rows = _by_token(query, key, value, packing)
    attend_rows = import_module("flash_attn").flash_attn_varlen_func
    out: Tensor = attend_rows(*rows, softmax_scale=scaling, causal=True)
    return out[None]


def _by_token(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> tuple[Any, ...]:
    """What both kernels begin with: q, k and v, [1, H, total, D], as [total, H, D], then where
    rows end and the longest, of queries and of keys."""
    laid = (packed[0].transpose(0, 1).contiguous() for packed in (query, key, value))
    ends, longest = packing.boundaries, packing.longest
    return (*laid, ends, ends, longest, longest)


@cache
def _kernel(device: torch.device, size: int) -> Callable[..., Tensor]:
    """What attends over packed rows in half precision on a GPU, for heads of this size.

    Torch's kernel; else that of flash-attn; else padded rows. The second and third are told once.
    """
    served = size <= WIDEST and torch.cuda.get_device_capability(device) >= (8, 0)
    lacks = _lacking(size) if served else f"no kernel is for heads of {size} on this GPU"
    if not lacks:
        return _flash
    package = served and find_spec("flash_attn") is not None
    place = "flash-attn is used" if package else "rows are padded inside the attention, slower"
    log.warning("torch's attention over packed rows is not used: %s; %s", lacks, place)
    return _flash_package if package else _by_row


def _lacking(size: int) -> str:
    """Why torch's kernel is not for heads of this size; "" if it is."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    if not {"scale", "window_size"} <= _keywords(varlen_attn):
        return f"varlen_attn of torch {torch.__version__} has no 'scale' or no 'window_size'"
    return f"it wants heads of a multiple of 8, these have {size}" if size % 8 else ""


@cache
def _keywords(function: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def register(function: Callable[..., tuple[Tensor, None]] = attend) -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, function)
    return NAME
