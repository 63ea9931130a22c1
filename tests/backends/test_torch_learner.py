"""The torch learner: gradients do not depend on how the work is cut, failures change nothing."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.algorithms.rules import Bound, Sum, Term
from didact.core.backends.models import load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.batch import Batch
from didact.core.errors import RecipeError, RunError
from didact.core.schedule import Schedule
from didact.core.where import Where

MEASURE = {"main": OptimizerSpec(lr=0.0, clip=None)}
TWO = {  # eps far above the rounding of a gradient, or Adam turns that rounding into steps
    "main": OptimizerSpec(lr=1e-3, weight_decay=0.1, warmup=2, eps=1e-5),
    "sft": OptimizerSpec(lr=3e-3, betas=(0.8, 0.9), clip=0.1, eps=1e-5),
}


class Recorder(TorchLearner):
    """Keeps the gradient that a step would have used."""

    def _step(self, name, batch):
        self.gradient = [m.grad.clone() for m in self.masters if m.grad is not None]
        return super()._step(name, batch)


def gradient(model, tokenizer, batch, rule, **settings):
    learner = Recorder(model, tokenizer, MEASURE, **settings)
    metrics = learner.update(batch, rule, "main", 0)
    return learner.gradient, metrics


def assert_gradients(first, second, tolerance=1e-6):
    scale = max(1.0, *(float(g.abs().max()) for g in first))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * scale, rtol=0)


def parameters(learner):
    return [value.clone() for _, value in learner.weights()]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 1},
        {"max_tokens": 40},
        {"max_tokens": 90, "packing": False},
        {"packing": False},
        {"logits": 99 * 7},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_the_gradient_does_not_depend_on_how_the_work_is_cut(
    model, tokenizer, batch, rule, settings
):
    whole, metrics = gradient(model, tokenizer, batch, rule)
    cut, others = gradient(model, tokenizer, batch, rule, **settings)
    assert_gradients(whole, cut)
    assert metrics == pytest.approx(others, rel=1e-5, abs=1e-6)


def test_the_gradient_does_not_depend_on_the_order_of_rows(model, tokenizer, batch, rule):
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    whole, _ = gradient(model, tokenizer, batch, rule)
    mixed, _ = gradient(model, tokenizer, batch.take(order), rule, max_tokens=50)
    assert_gradients(whole, mixed)


def test_the_gradient_is_that_of_the_loss_written_out(model, tokenizer):
    draw = torch.Generator().manual_seed(1)
    prompt = torch.randint(3, 99, (4,), generator=draw)
    from didact.core.types import Problem, Prompt, Trajectory

    sizes, rows = (3, 6), []
    for size in sizes:
        tokens = torch.randint(3, 99, (size,), generator=draw)
        mask = torch.ones(size, dtype=torch.bool)
        rows.append(
            Trajectory(Prompt("p", prompt, Problem("p", "")), tokens, mask, "demonstration")
        )
    rule = Sum([Term("sft", Bound(lambda logprobs: -logprobs), average="tokens")])
    ours, metrics = gradient(model, tokenizer, Batch(tuple(rows)), rule)
    model.zero_grad()
    loss = 0.0
    for row in rows:
        logits = model(torch.cat([prompt, row.tokens])[None]).logits[0, 3:-1]
        loss = loss + torch.nn.functional.cross_entropy(logits, row.tokens, reduction="sum") / 9
    loss.backward()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert_gradients([p.grad for p in model.parameters()], ours)


def test_idle_rows_are_counted_but_not_forwarded(model, tokenizer, batch, rule):
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda _, i, __: seen.append(i[0].numel()))
    learner = TorchLearner(model, tokenizer, MEASURE)
    seen.clear()
    metrics = learner.update(batch, rule, "main", 0)
    idle = [row for row in batch.rows if row.signals.get("advantages") == 0.0]
    fed = sum(len(r.prompt.tokens) + len(r.tokens) - 1 for r in batch.rows if r not in idle)
    assert len(idle) == metrics["idle_rows"] == 2.0 and sum(seen) == fed
    assert metrics["rows"] == 14.0


def test_a_batch_of_idle_rows_steps_with_a_gradient_of_zero(model, tokenizer, batch, rule):
    idle = Batch(tuple(r.with_signals(advantages=0.0) for r in batch.rows if r.origin == "policy"))
    learner = TorchLearner(model, tokenizer, MEASURE)
    metrics = learner.update(idle, rule, "main", 0)
    assert metrics["loss"] == metrics["grad_norm"] == 0.0 and metrics["idle_rows"] == len(idle)


def test_old_columns_are_the_live_ones_unless_they_are_stored(model, tokenizer, batch, rule):
    learner = TorchLearner(model, tokenizer, MEASURE)
    frozen = Batch(tuple(learner.freeze(batch.rows, frozenset({"old_logprobs"}))))
    without, one = gradient(model, tokenizer, batch, rule)
    stored, two = gradient(model, tokenizer, frozen, rule)
    assert_gradients(without, stored)
    assert "kl_old" not in one and two["kl_old"] == pytest.approx(0.0, abs=1e-6)
    assert one["mismatch/abs_mean"] == pytest.approx(two["mismatch/abs_mean"], rel=1e-5)
    half = Batch((*frozen.rows[:7], *batch.rows[7:]))  # two of them are never run forward
    with pytest.raises(RecipeError, match="'old_logprobs' is stored on 6 of 12 rows"):
        learner.update(half, rule, "main", 0)


def test_frozen_columns_are_what_the_live_forward_gives(model, tokenizer, batch):
    columns = frozenset({"ref_logprobs", "entropy", "old_collision"})
    small = TorchLearner(model, tokenizer, {}, max_tokens=30).freeze(batch.rows, columns)
    large = TorchLearner(model, tokenizer, {}).freeze(batch.rows, columns)
    for a, b in zip(small, large, strict=True):
        assert set(a.columns) >= columns
        for name in columns:
            assert a.columns[name].shape == a.tokens.shape
            torch.testing.assert_close(a.columns[name], b.columns[name], atol=1e-6, rtol=1e-6)


def test_mismatch_is_measured_against_the_sampler(model, tokenizer, batch, rule):
    learner = TorchLearner(model, tokenizer, MEASURE)
    rows = learner.freeze(batch.rows, frozenset({"x_logprobs"}))
    moved = [r.with_columns(behavior_logprobs=r.columns["x_logprobs"] + 0.25) for r in rows]
    metrics = learner.update(Batch(tuple(moved)), rule, "main", 0)
    assert metrics["mismatch/abs_mean"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["mismatch/max"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["mismatch/kl"] == pytest.approx(math.exp(-0.25) - 1 + 0.25, abs=1e-5)


def test_a_loss_that_is_not_finite_changes_nothing_and_says_where(model, tokenizer, batch):
    learner = TorchLearner(model, tokenizer, TWO, max_tokens=20)
    before = parameters(learner)

    def broken(logprobs, advantages):
        return torch.where(advantages[:, None] > 1, logprobs / 0, logprobs)

    rows = [replace(r, signals={"advantages": 0.5}) for r in batch.rows]
    rows[5] = replace(rows[5], signals={"advantages": 2.0})
    with pytest.raises(RunError, match=r"term 'broken' is -?(inf|nan) on .*p2"):
        learner.update(Batch(tuple(rows)), Sum([Term("broken", Bound(broken))]), "main", 0)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(learner), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_that_is_not_finite_changes_nothing(model, tokenizer, batch):
    learner = TorchLearner(model, tokenizer, TWO)
    before = parameters(learner)
    rule = Sum([Term("root", Bound(lambda logprobs: (logprobs - logprobs).abs().sqrt()))])
    with pytest.raises(RunError, match="the gradient is not finite though the loss is"):
        learner.update(batch, rule, "main", 0)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(learner), strict=True))


def reference_step(model, batch, rule, tokenizer):
    """The gradient, once more, for a torch.optim.AdamW of its own."""
    grads, _ = gradient(model, tokenizer, batch, rule)
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g


def test_two_optimizers_are_two_torch_adamws_over_the_same_parameters(spec, tokenizer, batch, rule):
    ours = TorchLearner(load_model(spec, tokenizer), tokenizer, TWO)
    model = load_model(spec, tokenizer)
    adams = {
        n: torch.optim.AdamW(
            model.parameters(), lr=s.lr, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay
        )
        for n, s in TWO.items()
    }
    for at, name in enumerate(["main", "sft", "main", "main", "sft"]):
        metrics = ours.update(batch, rule, name, at)
        reference_step(model, batch, rule, tokenizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), TWO[name].clip)
        own = sum(n == name for n in ["main", "sft", "main", "main", "sft"][:at])
        lr = TWO[name].lr * (min(1, (own + 1) / 2) if name == "main" else 1)
        adams[name].param_groups[0]["lr"] = lr
        assert metrics["lr"] == pytest.approx(lr)
        adams[name].step()
    for (_, a), b in zip(ours.weights(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), atol=1e-6, rtol=0)


def test_a_norm_above_the_threshold_skips_the_step_and_its_count(model, tokenizer, batch, rule):
    specs = {"main": OptimizerSpec(lr=1.0, skip_above=1e-6, warmup=4)}
    learner = TorchLearner(model, tokenizer, specs)
    before = parameters(learner)
    first, second = (learner.update(batch, rule, "main", at) for at in range(2))
    assert first["skipped"] == 1.0 and first["lr"] == second["lr"] == 0.25
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(learner), strict=True))


def test_the_learning_rate_follows_its_own_steps_and_the_factor(model, tokenizer, batch, rule):
    lr = Schedule(linear=(1e-3, 0.0), over=4)
    specs = {"main": OptimizerSpec(lr=lr), "sft": OptimizerSpec(lr=lr)}
    learner = TorchLearner(model, tokenizer, specs)
    assert learner.update(batch, rule, "main", 100)["lr"] == pytest.approx(1e-3)
    assert learner.update(batch, rule, "main", 101)["lr"] == pytest.approx(0.75e-3)
    learner.scale_lr(0.5)
    assert learner.update(batch, rule, "sft", 102)["lr"] == pytest.approx(0.5e-3)


def test_three_and_two_steps_equal_five_bitwise(spec, tokenizer, batch, rule):
    def steps(learner, first, last):
        for at in range(first, last):
            learner.update(batch, rule, "main" if at % 2 else "sft", at)

    one, first, second = (
        TorchLearner(load_model(spec, tokenizer), tokenizer, TWO) for _ in range(3)
    )
    steps(one, 0, 5)
    steps(first, 0, 3)
    torch.manual_seed(7)
    state = first.state_dict()
    drawn = torch.rand(3)
    steps(first, 3, 4)
    second.load_state_dict(state)
    assert torch.equal(torch.rand(3), drawn)
    steps(second, 3, 5)
    for (name, a), (_, b) in zip(one.weights(), second.weights(), strict=True):
        assert torch.equal(a, b), name


def test_its_state_is_plain_enough_for_a_safe_load(model, tokenizer, batch, rule, tmp_path):
    learner = TorchLearner(model, tokenizer, TWO)
    learner.update(batch, rule, "main", 0)
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    learner.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_a_saved_model_is_loaded_by_transformers(model, tokenizer, batch, rule, tmp_path):
    learner = TorchLearner(model, tokenizer, TWO)
    learner.update(batch, rule, "main", 0)
    learner.save(tmp_path / "final")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert AutoTokenizer.from_pretrained(tmp_path / "final").eos_token_id == 2
    for (name, a), (_, b) in zip(learner.weights(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_bfloat16_model_keeps_float32_masters(spec, tokenizer, batch, rule):
    half = load_model(spec.model_copy(update={"dtype": "bfloat16"}), tokenizer)
    learner = TorchLearner(half, tokenizer, {"main": OptimizerSpec(lr=1e-6)})
    start = [m.clone() for m in learner.masters]
    for at in range(3):
        learner.update(batch, rule, "main", at)
    moved = max(float((a - b).abs().max()) for a, b in zip(start, learner.masters, strict=True))
    assert 1e-6 < moved < 1e-5
    assert all(v.dtype == torch.bfloat16 for _, v in learner.weights())


def test_a_value_model_learns_values(spec, tokenizer, batch):
    model = load_model(spec.model_copy(update={"kind": "value"}), tokenizer)
    learner = TorchLearner(model, tokenizer, {"main": OptimizerSpec(lr=3e-3)})
    rule = Sum([Term("value", Bound(lambda values: (values - 1.0).square()))])
    losses = [learner.update(batch, rule, "main", at)["loss"] for at in range(20)]
    assert losses[0] == pytest.approx(1.0, abs=1e-6) and losses[-1] < 0.1
    assert "values" in learner.freeze(batch.rows, frozenset({"values"}))[0].columns


def test_a_term_without_rows_in_a_micro_batch_is_zero_for_values_too(spec, tokenizer, batch):
    model = load_model(spec.model_copy(update={"kind": "value"}), tokenizer)
    learner = TorchLearner(model, tokenizer, MEASURE, max_tokens=20)
    where = Where({"origin": "demonstration"})
    rule = Sum([Term("value", Bound(lambda values: (values - 1.0).square()), where=where)])
    assert learner.update(batch, rule, "main", 0)["loss"] == pytest.approx(1.0, abs=1e-6)


def test_unknown_optimizers_and_readouts_are_named(model, tokenizer, batch, rule):
    learner = TorchLearner(model, tokenizer, TWO)
    with pytest.raises(RecipeError, match=r"no optimizer named .mian.\. Did you mean .main."):
        learner.update(batch, rule, "mian", 0)
    with pytest.raises(RecipeError, match="cannot freeze \\['values'\\]"):
        learner.freeze(batch.rows, frozenset({"values"}))
