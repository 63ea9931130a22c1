"""Synthetic columns and batches, and what a loss makes of them by way of the real rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from didact.algorithms.rules import Bound, Sum, Term
from didact.core.batch import Batch
from didact.core.bind import columns_of
from didact.core.phase import READOUTS
from didact.core.protocols import UpdateRule
from didact.core.types import Problem, Prompt, Trajectory
from didact.plugins.testing.part import Example

ROWS = frozenset(
    {
        *("advantages", "reward", "success", "success_rate", "reward_mean", "reward_std"),
        *("pair", "preferred"),
    }
)
"""Inputs of losses, weights and rules that are one number per row."""
LENGTHS = (5, 3, 7, 1, 4, 6)
PROMPTS = ("a", "a", "b", "b", "c", "d")
HOLES = ((0, 2), (2, 0), (4, 3))
"""Tokens (row, position) inside responses that carry no loss."""
SILENT = 1
"""A row none of whose tokens carries loss."""


@dataclass(frozen=True)
class World:
    """Rows with every column that a loss reads, and the live ones as full tensors [B, T].

    Attributes:
        stored: columns as [B, T], signals as [B]; the values outside of the mask are garbage.
    """

    mask: Tensor
    stored: Mapping[str, Tensor]
    live: Mapping[str, Tensor]

    @property
    def batch(self) -> Batch:
        """The rows as the framework would hand them over."""
        rows = []
        for at, length in enumerate(LENGTHS):
            prompt = Prompt(PROMPTS[at], torch.arange(3), Problem(PROMPTS[at], "?"))
            signals = {n: float(v[at]) for n, v in self.stored.items() if v.dim() == 1}
            columns = {n: v[at, :length].clone() for n, v in self.stored.items() if v.dim() == 2}
            trainable = self.mask[at, :length].clone()
            tokens = torch.arange(1, length + 1)
            rows.append(
                Trajectory(prompt, tokens, trainable, "policy", signals=signals, columns=columns)
            )
        return Batch(tuple(rows))


def mask_of(lengths: Sequence[int] = LENGTHS) -> Tensor:
    """Loss tokens: padding, holes in responses, and one row without any."""
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    for row, position in HOLES:
        mask[row, position] = False
    mask[SILENT] = False
    return mask


def drawn(
    name: str, mask: Tensor, example: Example, draw: torch.Generator, apart: float, dtype: Any
) -> Tensor:
    """Plausible random values for an input, [B] or [B, T]."""
    shape = mask.shape[:1] if name in ROWS or name in example.rows else mask.shape
    normal = torch.randn(shape, generator=draw, dtype=torch.float64)
    if name in ("pair", "preferred"):
        at = torch.arange(len(mask))
        value = at // 2 if name == "pair" else 1 - at % 2
    elif name in example.among:
        choice = torch.randint(len(example.among[name]), shape, generator=draw)
        value = torch.tensor(example.among[name], dtype=torch.float64)[choice]
    elif name in example.between:
        low, high = example.between[name]
        value = low + (high - low) * torch.rand(shape, generator=draw, dtype=torch.float64)
    elif name.endswith("logprobs"):
        value = -apart * normal.abs() - 0.05
    elif name == "success":
        value = (normal > 0).double()
    elif name in ("success_rate", "reward_mean") or name.endswith("collision"):
        value = normal.sigmoid()
    elif name.endswith("entropy") or name == "reward_std":
        value = normal.abs()
    else:
        value = normal
    return value.to(dtype)


def world(
    function: Any,
    example: Example,
    *,
    reads: Iterable[str] | None = None,
    garbage: float = 0.0,
    seed: int = 0,
    apart: float = 1.0,
    dtype: torch.dtype = torch.float64,
    mask: Tensor | None = None,
) -> World:
    """Everything a loss or weight, or a rule that `reads` it, reads; `garbage` where no loss is."""
    mask = mask_of() if mask is None else mask
    draw = torch.Generator().manual_seed(seed)
    values: dict[str, Tensor] = {}
    names = columns_of(function) if reads is None else reads
    for name in sorted({*names, "logprobs"} - {"mask"}):
        value = drawn(name, mask, example, draw, apart, dtype)
        values[name] = torch.where(mask, value, garbage) if value.dim() == 2 else value
    live = {name: value for name, value in values.items() if name in READOUTS}
    return World(mask, values, live)


def columns(function: Any, given: World) -> dict[str, Tensor]:
    """The arguments of a direct call."""
    return {
        name: given.mask if name == "mask" else given.stored[name] for name in columns_of(function)
    }


def rule(loss: Any, times: Any = None, select: Any = None) -> Sum:
    """The loss, or a weight on it, as a phase would apply it."""
    bound = [[Bound(weight)] if weight is not None else [] for weight in (times, select)]
    return Sum([Term("term", Bound(loss), times=bound[0], select=bound[1])])


@dataclass(frozen=True)
class Outcome:
    """The value of a rule, and its gradient by live column, [B, T] in the order of the rows."""

    value: Tensor
    gradients: Mapping[str, Tensor]


def outcome(
    objective: UpdateRule,
    given: World,
    pieces: Sequence[Sequence[int]] | None = None,
    order: Sequence[int] | None = None,
) -> Outcome:
    """Apply a rule to a mini-batch whose rows come in an order and in micro-batches."""
    order = list(order or range(len(LENGTHS)))
    pieces = pieces or [range(len(order))]
    leaves = {name: value.clone().requires_grad_(True) for name, value in given.live.items()}
    batch = given.batch.take(order)
    bound = objective.over(batch, 0)
    total = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        rows = [order[at] for at in piece]
        width = max(LENGTHS[row] for row in rows)
        part = batch.take(list(piece))
        live = {name: leaf[rows][:, :width] for name, leaf in leaves.items()}
        total = total + sum(bound(part, live).values())
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if total.requires_grad:
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return Outcome(total.detach(), gradients)


def same(one: Outcome, other: Outcome, tolerance: float = 1e-9) -> str:
    """In what two outcomes differ, "" if in nothing."""
    pairs = {"value": (one.value, other.value)} | {
        f"gradient by {name}": (one.gradients[name], other.gradients[name])
        for name in one.gradients
    }
    for what, (left, right) in pairs.items():
        if not torch.allclose(left, right, rtol=tolerance, atol=tolerance):
            return f"the {what} differs by {float((left - right).abs().max()):.3g}"
    return ""
