"""Learned scalars: counted once however the work is cut, resumed bitwise, no part of the model."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from didact.algorithms.rules import Bound, Joined, Sum, Term
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.batch import Batch
from didact.core.errors import RunError
from didact.core.learned import Learned, learned_of

MEASURE = {"main": OptimizerSpec(lr=0.0)}
STEP = {"main": OptimizerSpec(lr=1.0, betas=(0.0, 0.0), eps=1e6, clip=None)}
"""A step of g / (|g| + 1e6) with the gradient g: a measurement of it."""
ADAM = {"main": OptimizerSpec(lr=1e-2), "sft": OptimizerSpec(lr=3e-2, clip=0.1)}
STARTS = {"clip": 0.3, "sft": 1.0}


def learned(rule, **limits):
    """The mixed rule whose first two terms learn their weights."""
    terms = [
        replace(term, weight=Learned(learned=f"{term.label}_noise", start=start, **limits))
        for term in rule.terms
        if (start := STARTS.get(term.label)) is not None
    ]
    return Sum([*terms, *(term for term in rule.terms if term.label not in STARTS)])


def plain(rule):
    return Sum([replace(term, weight=1.0) for term in rule.terms])


@pytest.mark.parametrize(
    "settings", [{}, {"max_tokens": 1}, {"max_tokens": 50}, {"packing": False}], ids=str
)
def test_the_gradient_counts_each_scalar_once(model, tokenizer, batch, rule, settings):
    losses = TorchLearner(model, tokenizer, MEASURE).update(batch, plain(rule), "main", 0)
    found = TorchLearner(model, tokenizer, STEP, **settings).update(batch, learned(rule), "main", 0)
    for label, start in STARTS.items():
        wanted = 1 - 2 * math.exp(-2 * start) * losses[label]
        moved = start - found[f"learned/{label}_noise"]
        assert moved * 1e6 == pytest.approx(wanted, abs=0.1)  # float32 holds 1 to 6e-8
        assert found[label] == pytest.approx(math.exp(-2 * start) * losses[label] + start, abs=1e-6)


def test_the_models_gradient_is_that_of_the_weights_written_out(model, tokenizer, batch, rule):
    weights = {label: math.exp(-2 * start) for label, start in STARTS.items()}
    fixed = [replace(term, weight=weights.get(term.label, term.weight)) for term in rule.terms]
    reports = [
        TorchLearner(model, tokenizer, MEASURE, max_tokens=40).update(batch, given, "main", 0)
        for given in (learned(rule), Sum(fixed))
    ]
    assert reports[0]["grad_norm"] == pytest.approx(reports[1]["grad_norm"], rel=1e-6)


def test_a_scalar_rests_where_its_loss_vanishes_on_all_rows(model, tokenizer, batch, rule):
    idle = Batch(tuple(r.with_signals(advantages=0.0) for r in batch.rows if r.origin == "policy"))
    found = TorchLearner(model, tokenizer, ADAM).update(idle, learned(rule), "main", 0)
    assert {name: found[f"learned/{name}_noise"] for name in STARTS} == pytest.approx(STARTS)
    assert found["loss"] == 0.0


def test_two_and_two_steps_equal_four_bitwise(fresh, tokenizer, mixed, rule, tmp_path):
    def steps(learner, first, last):
        turns = ["main", "sft", "main", "sft"]
        return [
            learner.update(mixed(at), learned(rule), turns[at], at) for at in range(first, last)
        ]

    one, first, second = (TorchLearner(fresh(), tokenizer, ADAM) for _ in range(3))
    whole = steps(one, 0, 4)
    steps(first, 0, 2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert steps(second, 2, 4) == whole[2:]
    assert whole[3]["learned/sft_noise"] != STARTS["sft"]
    for (name, a), (_, b) in zip(one.weights(), second.weights(), strict=True):
        assert torch.equal(a, b), name


def test_a_scalar_moves_as_a_parameter_of_the_model_would(model, tokenizer, batch, rule):
    """At the learning rate and the clipping of the optimizer that steps: AdamW's first step."""
    spec = OptimizerSpec(lr=1e-2, clip=1e-3, eps=1e-3, weight_decay=0.1, warmup=2)
    learner = TorchLearner(model, tokenizer, {"main": spec})
    learner.scale_lr(0.5)
    losses = TorchLearner(model, tokenizer, MEASURE).update(batch, plain(rule), "main", 0)
    found = learner.update(batch, learned(rule), "main", 0)
    gradient = (1 - 2 * math.exp(-2) * losses["sft"]) * 1e-3 / found["grad_norm"]
    lr = 0.5 * 0.5 * 1e-2
    wanted = 1.0 * (1 - lr * 0.1) - lr * gradient / (abs(gradient) + 1e-3)
    assert found["learned/sft_noise"] == pytest.approx(wanted, abs=2e-7)


def test_a_scalar_stays_inside_its_limits(model, tokenizer, batch, rule):
    learner = TorchLearner(model, tokenizer, {"main": OptimizerSpec(lr=10.0)})
    found = learner.update(batch, learned(rule, at_least=-2.0, at_most=1.5), "main", 0)
    assert {found["learned/clip_noise"], found["learned/sft_noise"]} <= {-2.0, 1.5}
    with pytest.raises(ValueError, match="'start' is 0, not from 1 to inf"):
        Learned(learned="s", at_least=1.0)


def test_a_skipped_step_skips_the_scalars(model, tokenizer, batch, rule):
    learner = TorchLearner(model, tokenizer, {"main": OptimizerSpec(lr=1.0, skip_above=1e-9)})
    found = learner.update(batch, learned(rule), "main", 0)
    assert found["skipped"] == 1.0 and found["learned/sft_noise"] == STARTS["sft"]


def test_a_gradient_that_is_not_finite_changes_nothing(model, tokenizer, batch):
    class Root:
        """Its value is finite, its gradient with respect to s is not."""

        needs = frozenset({"logprobs"})
        ahead = frozenset()
        learned = {"s": Learned(learned="s")}

        def over(self, batch, step):
            return lambda part, live: {"root": (live["logprobs"] * 0).sum() + live["s"].sqrt()}

        def idle(self, batch):
            return [False] * len(batch)

    assert learned_of(Joined([Root()])).keys() == {"s"}
    learner = TorchLearner(model, tokenizer, ADAM)
    before = [value.clone() for _, value in learner.weights()]
    with pytest.raises(RunError, match=r"the gradient of 's' is inf, nothing was updated"):
        learner.update(batch, Root(), "main", 0)
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, learner.weights(), strict=True))


def test_scalars_are_no_part_of_the_model(model, tokenizer, batch, rule, tmp_path):
    names = {name for name, _ in model.named_parameters()}
    learner = TorchLearner(model, tokenizer, ADAM)
    learner.update(batch, learned(rule), "main", 0)
    assert {name for name, _ in learner.weights()} == names
    learner.save(tmp_path / "final")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert {name for name, _ in saved.named_parameters()} == names


def test_a_rule_without_scalars_reports_none(model, tokenizer, batch):
    rule = Sum([Term("sft", Bound(lambda logprobs: -logprobs))])
    found = TorchLearner(model, tokenizer, ADAM).update(batch, rule, "main", 0)
    assert not any(name.startswith("learned/") for name in found)
