"""What every loss, weight and choice promises: shapes, dtype, masks, and never a NaN gradient."""

import inspect

import pytest
import torch

from didact.algorithms import (
    negative_aware,
    off_policy,
    policy_gradient,
    regularizers,
    selection,
    sequence_level,
    trust,
    value_learning,
    weights,
)
from didact.algorithms.rules import Bound, Sum, Term, columns_of
from didact.algorithms.tensors import per_token

LIVE = ("logprobs", "entropy", "values", "mean_logprobs")


def functions(*modules):
    return [
        function
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    ]


LOSSES = functions(
    negative_aware, off_policy, policy_gradient, regularizers, sequence_level, value_learning
)
WEIGHTS = functions(weights, trust, selection)
MASK = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()


def columns(function, *, garbage=0.0, dtype=torch.float64, seed=0, apart=1.0):
    """Random columns and signals by name, `garbage` outside of the mask."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in columns_of(function):
        value = torch.randn(MASK.shape, generator=generator, dtype=dtype)
        if name == "mask":
            made[name] = MASK
            continue
        if name in ("success", "success_rate"):
            value = (value > 0).to(dtype) if name == "success" else value.sigmoid()
        if name == "age":
            value = (3 * value).abs().round()
        if name.endswith("logprobs"):
            value = -value.abs() * apart
        made[name] = torch.where(MASK, value, garbage)
    return made


def live(made):
    return [made[name].requires_grad_(True) for name in made if name in LIVE]


def outcome(loss, made):
    """Loss inside the mask, and the gradient of its sum."""
    leaves = live(made)
    value = loss(**made)
    assert value.shape == MASK.shape
    inside = torch.where(MASK, value, 0.0)
    gradients = torch.autograd.grad(inside.sum(), leaves, allow_unused=True)
    return inside.detach(), [torch.where(MASK, g, 0.0) for g in gradients if g is not None]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_what_lies_outside_of_the_mask_does_not_matter(loss):
    clean, dirty = (outcome(loss, columns(loss, garbage=value)) for value in (0.0, 7.5))
    torch.testing.assert_close(clean, dirty, rtol=0, atol=0)


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda f: f.__name__)
def test_a_weight_has_no_gradient_and_ignores_what_lies_outside_of_the_mask(weight):
    results = []
    for garbage in (0.0, 7.5):
        made = columns(weight, garbage=garbage)
        live(made)
        value = weight(**made)
        assert not value.requires_grad
        assert value.shape in (MASK.shape, MASK.shape[:1])
        rows = value if value.dim() == 2 else value[:, None].expand(MASK.shape)
        results.append(torch.where(MASK, rows, 0.0))
    assert torch.equal(*results)


@pytest.mark.parametrize("function", LOSSES + WEIGHTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(function, dtype):
    assert function(**columns(function, dtype=dtype)).dtype is dtype


@pytest.mark.parametrize("function", LOSSES + WEIGHTS, ids=lambda f: f.__name__)
def test_an_advantage_per_row_is_one_per_token(function):
    made = columns(function)
    signals = {"advantages", "success", "success_rate", "returns", "age"} & made.keys()
    if function.__name__ == "exponential_advantage" or not signals:
        return
    per_row = {name: made[name][:, 0].clone() for name in signals}
    spread = {name: value[:, None].expand(MASK.shape) for name, value in per_row.items()}
    left, right = function(**{**made, **per_row}), function(**{**made, **spread})
    full = MASK.any(1)
    torch.testing.assert_close(left[full], right[full], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_loss_marked_as_vanishing_has_no_value_and_no_gradient_there(loss):
    name = getattr(loss, "vanishes_with", None)
    made = columns(loss)
    if name is None:
        if "advantages" in made:
            made["advantages"] = torch.zeros(3, dtype=torch.float64)
            value, gradients = outcome(loss, made)
            assert value.abs().sum() + sum(g.abs().sum() for g in gradients) > 0
        return
    made[name] = torch.zeros(3, dtype=torch.float64)
    value, gradients = outcome(loss, made)
    assert float(value.abs().sum()) == 0.0
    assert all(float(gradient.abs().sum()) == 0.0 for gradient in gradients)


UNBOUNDED = {"kl_k3", "corrected_kl"}  # exp(-x) without a clamp; `low_variance_kl` is the safe one


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_log_probabilities_far_apart_give_finite_gradients_in_float32(loss):
    if loss.__name__ in UNBOUNDED:
        return
    made = columns(loss, dtype=torch.float32, apart=500.0)
    value, gradients = outcome(loss, made)
    assert torch.isfinite(value).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_an_empty_mask_has_value_and_gradient_zero_whatever_the_columns_hold(compose, loss):
    """Through a term, with NaN in every column: nothing of it reaches the gradient."""
    made = {k: v for k, v in columns(loss, garbage=float("nan")).items() if k != "mask"}
    names = [name for name in made if name in LIVE]
    leaves = {n: torch.full(MASK.shape, float("nan"), dtype=torch.float64) for n in names}
    leaves = {"logprobs": torch.zeros(MASK.shape, dtype=torch.float64), **leaves}
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    nothing = torch.zeros_like(MASK)
    batch = compose.batch(nothing, {k: v for k, v in made.items() if k not in names})
    value = sum(Sum([Term("t", Bound(loss))]).over(batch, 0)(batch, leaves).values())
    assert float(value.detach()) == 0.0
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    assert all(g is None or float(g.abs().sum()) == 0.0 for g in gradients)


@pytest.mark.parametrize("choice", functions(selection), ids=lambda f: f.__name__)
def test_a_choice_is_marked_and_accepts_an_empty_mask(choice):
    assert choice.whole_mini_batch
    made = columns(choice)
    made["mask"] = torch.zeros_like(MASK)
    assert torch.isfinite(choice(**made)).all()


def test_a_value_per_neither_row_nor_token_is_refused():
    with pytest.raises(ValueError, match="per row"):
        per_token(torch.ones(2), torch.ones(3, 5))
    with pytest.raises(ValueError, match="per token"):
        per_token(torch.ones(3, 4), torch.ones(3, 5))
