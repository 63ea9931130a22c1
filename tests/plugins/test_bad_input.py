"""Numbers that are none, and columns that are not there: no built-in part lets them through."""

import math
from functools import cache

import pytest
import torch

from didact.algorithms.policy_gradient import reinforce
from didact.algorithms.rules import Bound, Sum, Term
from didact.core.annotate import FROM_SIGNALS, MADE_HERE, Annotate
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.batch import Batch
from didact.core.bind import columns_of
from didact.core.errors import RecipeError, RunError
from didact.core.score import Weighted
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.plugins.manager import load
from didact.plugins.testing.advantages import LENGTHS, step
from didact.plugins.testing.part import parts_of
from didact.plugins.testing.tensors import world

from .test_contracts import EXAMPLES

PARTS = list(parts_of(load(installed=False), "didact", EXAMPLES))
OF_TENSORS = [part for part in PARTS if part.entry.kind in ("loss", "weight")]
ADVANTAGES = [part for part in PARTS if part.entry.kind == "advantage"]
NUMBERS = (math.nan, math.inf, -math.inf)
ROW, TOKEN = 0, 1


@cache
def learner():
    """One for all: only whether its parameters stay numbers matters."""
    small = quickstart_model() | {"hidden_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    spec = ModelSpec(config=small, tokenizer="characters")
    tokenizer = load_tokenizer(spec)
    return TorchLearner(load_model(spec, tokenizer), tokenizer, {"main": OptimizerSpec(lr=1e-4)})


def rule(function, kind):
    if kind == "loss":
        return Sum([Term("t", Bound(function))])
    where = "select" if getattr(function, "whole_mini_batch", False) else "times"
    return Sum([Term("t", Bound(reinforce), **{where: [Bound(function)]})])


def given(part):
    """Rows with everything that a loss or weight reads, and the names that are stored."""
    function = part.make()
    made = world(function, part.example)
    batch = made.batch
    if part.entry.kind == "weight":
        batch = Batch(tuple(row.with_signals(advantages=1.0) for row in batch.rows))
    stored = [n for n in columns_of(function) if n != "mask" and n not in learner().reader.offers]
    return function, batch, stored


def with_number(row, name, number):
    if name not in row.columns:
        return row.with_signals(**{name: number})
    column = row.columns[name].clone()
    column[TOKEN] = number
    return row.with_columns(**{name: column})


def without(row, name):
    signals = {k: v for k, v in row.signals.items() if k != name}
    columns = {k: v for k, v in row.columns.items() if k != name}
    return Trajectory(
        row.prompt, row.tokens, row.trainable, row.origin, signals=signals, columns=columns
    )


def first(batch, change, *given):
    """The rows with another first one, which carries loss at its first two tokens."""
    return Batch((change(batch.rows[ROW], *given), *batch.rows[1:]))


@pytest.mark.parametrize("part", OF_TENSORS, ids=str)
def test_what_is_no_number_in_a_column_never_reaches_the_parameters(part):
    function, batch, stored = given(part)
    if not columns_of(function) or "values" in columns_of(function):
        return  # a value head is read out by another model
    for name in stored:
        for number in NUMBERS:
            before = [value.clone() for _, value in learner().weights()]
            try:
                learner().update(
                    first(batch, with_number, name, number),
                    rule(function, part.entry.kind),
                    "main",
                    0,
                )
            except (RunError, RecipeError, ValueError):
                now = [value for _, value in learner().weights()]
                assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True)), name
            assert all(bool(value.isfinite().all()) for _, value in learner().weights()), name


@pytest.mark.parametrize("part", OF_TENSORS, ids=str)
def test_a_column_that_a_row_lacks_is_named(part):
    function, batch, stored = given(part)
    if "values" in columns_of(function):
        return
    for name in stored:
        with pytest.raises(RecipeError, match=f"'{name}'"):
            learner().update(
                first(batch, without, name), rule(function, part.entry.kind), "main", 0
            )


def rows(part):
    """Groups as the estimator's promises have them, and the stage that asks it."""
    estimator = part.make()
    made = step(estimator, part.example)
    values = dict(made.values)
    parts = values["reward_parts"]
    members = []
    for at, length in enumerate(LENGTHS):
        wanted = {
            n: v for n, v in values.items() if n not in MADE_HERE and n in columns_of(estimator)
        }
        signals = {FROM_SIGNALS.get(n, n): float(v[at]) for n, v in wanted.items() if v.dim() == 1}
        signals |= {"reward/a": float(parts[at, 0]), "reward/b": float(parts[at, 1])}
        columns = {n: v[at, :length].clone() for n, v in wanted.items() if v.dim() == 2}
        tokens, group = torch.arange(length), int(made.groups[at])
        prompt = Prompt(f"p{group}", torch.tensor([1]), Problem(f"p{group}", "?"))
        members.append(
            Trajectory(
                prompt,
                tokens,
                torch.ones(length, dtype=torch.bool),
                "policy",
                signals=signals,
                columns=columns,
            )
        )
    groups = [
        Group(chosen[0].prompt, tuple(chosen))
        for number in range(int(made.groups.max()) + 1)
        if (chosen := [m for m, g in zip(members, made.groups, strict=True) if g == number])
    ]
    rewards = {name: Weighted(None, 1.0, 0.0) for name in ("a", "b")}
    return Annotate(estimator, rewards=rewards), groups


def changed(groups, change, *given):
    head, *rest = groups[0].members
    return [Group(groups[0].prompt, (change(head, *given), *rest)), *groups[1:]]


class Run:
    seed = step = 0


@pytest.mark.parametrize("part", ADVANTAGES, ids=str)
def test_an_estimator_gives_numbers_or_an_error(part):
    stage, groups = rows(part)
    for name in sorted({n for n in stage.needs if n != "members"}):
        for number in NUMBERS:
            fresh, _ = rows(part)
            try:
                done = fresh(changed(groups, with_number, name, number), Run())
            except (RecipeError, ValueError):
                continue
            for added in fresh.adds:
                for member in (m for group in done for m in group.members):
                    value = member.columns.get(added, torch.tensor(member.signals.get(added, 0.0)))
                    assert bool(value.isfinite().all()), f"{added} from {name} = {number}"


@pytest.mark.parametrize("part", ADVANTAGES, ids=str)
def test_an_estimator_names_what_a_trajectory_lacks(part):
    stage, groups = rows(part)
    for name in sorted({n for n in stage.needs if n != "members"}):
        with pytest.raises(RecipeError, match=f"'{name}'"):
            stage(changed(groups, without, name), Run())
