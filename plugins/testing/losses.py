"""What every loss and every weight promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from didact.core.bind import columns_of
from didact.core.phase import READOUTS
from didact.plugins.testing.part import Part, demand
from didact.plugins.testing.tensors import (
    LENGTHS,
    World,
    columns,
    mask_of,
    outcome,
    rule,
    same,
    world,
)

SPLITS: tuple[Sequence[Sequence[int]], ...] = (
    [[0], [1], [2], [3], [4], [5]],
    [[5, 0, 3], [2, 1], [4]],
)
ORDER = (3, 5, 0, 4, 2, 1)
GROUPS = ([0, 1], [2, 3], [4], [5])
FAR = 30.0
"""Log-probabilities this far apart, in nats, must still give finite gradients in float32."""


def loss_is_one_number_per_token_in_the_dtype_it_was_given(part: Part) -> None:
    """[B, T] in, [B, T] out, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        given = world(part.make(), part.example, dtype=dtype)
        value = part.make()(**columns(part.make(), given))
        demand(isinstance(value, Tensor), f"returned {type(value).__name__}, not a tensor")
        wanted = tuple(given.mask.shape)
        demand(tuple(value.shape) == wanted, f"returned {tuple(value.shape)}, not {wanted}")
        demand(value.dtype == dtype, f"returned {value.dtype} for inputs in {dtype}")


def loss_ignores_what_stands_where_no_loss_is(part: Part) -> None:
    """NaN at padded and masked positions changes neither value nor gradient."""
    loss = part.make()
    clean, dirty = (
        outcome(rule(loss), world(loss, part.example, garbage=garbage))
        for garbage in (0.0, math.nan)
    )
    demand(not same(clean, dirty), f"with NaN outside of the mask {same(clean, dirty)}")


def loss_does_not_depend_on_the_order_of_rows(part: Part) -> None:
    """Shuffled rows: the same value, and the same gradient of each row."""
    loss = part.make()
    given = world(loss, part.example)
    told = same(outcome(rule(loss), given), outcome(rule(loss), given, order=ORDER))
    demand(not told, f"with the rows in another order {told}")


def loss_does_not_depend_on_micro_batches(part: Part) -> None:
    """Split into parts of other widths: the same value and gradient. Rows must not be compared."""
    loss = part.make()
    given = world(loss, part.example)
    for pieces in SPLITS:
        told = same(outcome(rule(loss), given), outcome(rule(loss), given, pieces))
        demand(not told, f"in micro-batches {told}: it looks across rows or at padding")


def loss_has_a_gradient_that_stays_inside_the_mask(part: Part) -> None:
    """It reaches a column of the model, is finite, and is 0 where no loss is."""
    loss = part.make()
    read = sorted(READOUTS & set(columns_of(loss)))
    demand(bool(read), f"it reads no column of the model ({', '.join(sorted(READOUTS))})")
    given = world(loss, part.example)
    found = outcome(rule(loss), given)
    _finite(found.value, found.gradients.values(), "")
    reached = any(float(gradient.abs().sum()) > 0 for gradient in found.gradients.values())
    demand(reached, "no gradient reaches the model; something is detached that should not be")
    for name, gradient in found.gradients.items():
        outside = float(gradient[~given.mask].abs().sum())
        demand(outside == 0, f"the gradient by {name} is {outside:.3g} outside of the mask")


def loss_is_finite_on_degenerate_input(part: Part) -> None:
    """No loss token at all, all advantages 0 or equal, log-probabilities far apart."""
    loss = part.make()
    empty = world(loss, part.example, garbage=math.nan, mask=torch.zeros_like(mask_of()))
    found = outcome(rule(loss), empty)
    zero = float(found.value) == 0 and not any(
        float(g.abs().sum()) for g in found.gradients.values()
    )
    demand(zero, "a batch without a loss token has a value or a gradient")
    for far in (FAR, -FAR):
        given = world(loss, part.example, dtype=torch.float32)
        moved = {name: value + far * (name not in READOUTS) for name, value in given.stored.items()}
        logged = {n: moved[n] if n.endswith("logprobs") else v for n, v in given.stored.items()}
        found = outcome(rule(loss), World(given.mask, logged, given.live))
        _finite(found.value, found.gradients.values(), f" with a log-ratio of {-far:g} in float32")
    for constant in (0.0, 1.0):
        given = world(loss, part.example)
        flat = {
            n: torch.full_like(v, constant) if v.dim() == 1 else v for n, v in given.stored.items()
        }
        found = outcome(rule(loss), World(given.mask, flat, given.live))
        _finite(found.value, found.gradients.values(), f" with every signal {constant:g}")


def loss_vanishes_where_it_says_so(part: Part) -> None:
    """Marked with `vanishes_with`: value and gradient are 0 where that signal is."""
    loss = part.make()
    name = getattr(part.entry.factory, "vanishes_with", None)
    if name is None:
        return
    given = world(loss, part.example)
    zero = {**given.stored, name: torch.zeros_like(given.stored[name])}
    found = outcome(rule(loss), World(given.mask, zero, given.live))
    told = float(found.value) == 0 and not any(
        float(g.abs().sum()) for g in found.gradients.values()
    )
    demand(told, f"it is marked as vanishing with '{name}', and does not")


def tensor_function_is_pure(part: Part) -> None:
    """Called twice it gives the same; inputs and the global random state stay as they were."""
    function = part.make()
    given = columns(function, world(function, part.example))
    before = {name: value.clone() for name, value in given.items()}
    state = torch.get_rng_state()
    first, second = function(**given), function(**given)
    demand(bool(torch.equal(state, torch.get_rng_state())), "it draws from the global generator")
    demand(torch.equal(first, second), "called twice on the same input it gives two results")
    changed = sorted(name for name, value in given.items() if not torch.equal(value, before[name]))
    demand(not changed, f"it changes its input {', '.join(changed)} in place")


def weight_is_a_number_without_gradient_per_token_or_row(part: Part) -> None:
    """[B, T] or [B], finite, in the dtype it was given, and detached from the model."""
    weight = part.make()
    for dtype in (torch.float32, torch.float64):
        given = world(weight, part.example, dtype=dtype)
        arguments = columns(weight, given)
        for name in READOUTS & arguments.keys():
            arguments[name] = arguments[name].clone().requires_grad_(True)
        value = weight(**arguments)
        allowed = (tuple(given.mask.shape), tuple(given.mask.shape[:1]))
        demand(
            tuple(value.shape) in allowed, f"returned {tuple(value.shape)}, not one of {allowed}"
        )
        demand(value.dtype == dtype, f"returned {value.dtype} for inputs in {dtype}")
        demand(not value.requires_grad, "it has a gradient; detach what it reads of the model")
        spread = value if value.dim() == 2 else value[:, None].expand(given.mask.shape)
        demand(bool(spread[given.mask].isfinite().all()), "it is not finite inside the mask")


def weight_ignores_what_stands_where_no_loss_is(part: Part) -> None:
    """NaN at padded and masked positions changes neither value nor gradient of the loss."""
    weight = part.make()
    clean, dirty = (
        outcome(_weighted(part, weight), world(weight, part.example, garbage=garbage))
        for garbage in (0.0, math.nan)
    )
    demand(not same(clean, dirty), f"with NaN outside of the mask {same(clean, dirty)}")


def weight_does_not_depend_on_order_or_micro_batches(part: Part) -> None:
    """The loss it multiplies is the same in any order and any split of the rows."""
    weight = part.make()
    given = world(weight, part.example)
    objective = _weighted(part, weight)
    whole = outcome(objective, given)
    told = same(whole, outcome(objective, given, order=ORDER))
    demand(not told, f"with the rows in another order {told}")
    for pieces in (GROUPS,) if part.example.grouped else SPLITS:
        told = same(whole, outcome(objective, given, pieces))
        demand(not told, f"in micro-batches {told}: mark it with `whole_mini_batch`")


def weight_is_finite_on_degenerate_input(part: Part) -> None:
    """Nothing that carries loss, and log-probabilities far apart."""
    weight = part.make()
    none = world(weight, part.example, mask=torch.zeros_like(mask_of()))
    value = weight(**columns(weight, none))
    demand(bool(value.isfinite().all()), "it is not finite where nothing carries loss")
    given = world(weight, part.example, dtype=torch.float32, apart=FAR)
    value = weight(**columns(weight, given))
    spread = value if value.dim() == 2 else value[:, None].expand(given.mask.shape)
    inside = spread[given.mask].isfinite().all()
    demand(bool(inside), "it is not finite when log-probabilities are far apart, in float32")


def _weighted(part: Part, weight: Any) -> Any:
    """A plain likelihood times the weight, the way a recipe may use it."""
    whole = bool(getattr(part.entry.factory, "whole_mini_batch", False))
    return rule(_likelihood, None if whole else weight, weight if whole else None)


def _likelihood(logprobs: Tensor) -> Tensor:
    return -logprobs


def _finite(value: Tensor, gradients: Any, when: str) -> None:
    demand(bool(value.isfinite()), f"its value is {float(value)}{when}")
    good = all(bool(gradient.isfinite().all()) for gradient in gradients)
    demand(good, f"its gradient is not finite{when}")


assert len(ORDER) == len(LENGTHS)
