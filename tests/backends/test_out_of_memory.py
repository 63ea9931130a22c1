"""Out of memory, the learner halves its micro-batches and makes the very same step."""

import pytest
import torch

from didact.algorithms.rules import Bound, Sum, Term
from didact.core.backends.budget import Budget, TooLarge, out_of_memory
from didact.core.backends.optim import NamedAdamW, OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RunError, Stranded
from didact.core.world import Ranks

ADAM = {"main": OptimizerSpec(lr=1e-3, weight_decay=0.1)}
WITHIN = ("forward", "backward")


def short_of(model, tokens, within="forward"):
    """A labelled fake: the model pretends to need more memory than there is for so many tokens."""

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    def after(module, given, out):
        if out.last_hidden_state[..., 0].numel() > tokens:
            if within == "forward":
                fail()
            if out.last_hidden_state.requires_grad:
                out.last_hidden_state.register_hook(fail)

    model.base_model.register_forward_hook(after)
    return model


def steps(learner, rule, mixed, count=3):
    return [learner.update(mixed(at), rule, "main", at) for at in range(count)]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("within", WITHIN)
def test_the_step_is_bitwise_that_of_a_run_with_the_smaller_budget(
    fresh, mixed, tokenizer, rule, within, packing, caplog
):
    short = TorchLearner(short_of(fresh(), 40, within), tokenizer, ADAM, packing=packing)
    found = steps(short, rule, mixed)
    assert short.budget.tokens < 40 and f"max_tokens is {short.budget.tokens}" in caplog.text
    enough = TorchLearner(fresh(), tokenizer, ADAM, packing=packing, max_tokens=short.budget.tokens)
    wanted = steps(enough, rule, mixed)
    for (name, a), (_, b) in zip(short.weights(), enough.weights(), strict=True):
        assert torch.equal(a, b), name
    assert found[0].pop("out_of_memory") >= 1 and "out_of_memory" not in found[1]
    assert [report.pop("max_tokens") for report in found] == [short.budget.tokens] * 3
    assert found == wanted


def test_a_rank_that_others_wait_for_in_a_collective_does_not_wait_for_them():
    """Sharded weights are gathered by all; one that runs out of memory between would hang them."""

    def read(items):
        raise Stranded("out of memory between the collectives")

    with pytest.raises(Stranded, match="between the collectives"):  # and not in a collective
        Ranks(0, 2).map(read, range(2))


def test_the_budget_is_remembered_in_the_state(fresh, mixed, tokenizer, rule):
    short = TorchLearner(short_of(fresh(), 40), tokenizer, ADAM, max_tokens=90)
    steps(short, rule, mixed, 1)
    resumed = TorchLearner(fresh(), tokenizer, ADAM, max_tokens=90)
    resumed.load_state_dict(short.state_dict())
    assert resumed.budget.tokens == short.budget.tokens < 40


@pytest.mark.parametrize("within", WITHIN)
def test_a_row_that_does_not_fit_by_itself_is_named_and_nothing_has_changed(
    fresh, mixed, tokenizer, rule, within
):
    learner = TorchLearner(fresh(), tokenizer, ADAM)
    short_of(learner.model, 5, within)
    with pytest.raises(RunError, match=r"a row of \d+ tokens \(prompt 'p\d'\) does not fit by it"):
        steps(learner, rule, mixed, 1)
    for a, b in zip(learner.model.parameters(), fresh().parameters(), strict=True):
        assert torch.equal(a, b) and a.grad is None


def test_rows_are_read_in_halves(fresh, tokenizer, batch):
    columns = frozenset({"ref_logprobs", "entropy"})
    short = TorchLearner(short_of(fresh(), 30), tokenizer, {})
    enough = TorchLearner(fresh(), tokenizer, {})
    found, wanted = short.freeze(batch.rows, columns), enough.freeze(batch.rows, columns)
    for a, b in zip(found, wanted, strict=True):
        for name in columns:
            torch.testing.assert_close(a.columns[name], b.columns[name], atol=1e-6, rtol=0)
    short_of(enough.model, 5)
    with pytest.raises(RunError, match="cannot be read by itself"):
        enough.freeze(batch.rows, columns)


def test_memory_that_the_cpu_does_not_have_counts_and_other_errors_do_not(model, tokenizer, batch):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)

    def wrong(logprobs):
        return logprobs + torch.zeros(3, 5, 7)

    with pytest.raises(RuntimeError, match="must match"):
        TorchLearner(model, tokenizer, ADAM).update(
            batch, Sum([Term("wrong", Bound(wrong))]), "main", 0
        )


def test_a_budget_halves_what_did_not_fit_until_it_does():
    asked = []

    def update(tokens):
        asked.append(tokens)
        if tokens > 200:
            raise TooLarge(min(tokens, 3000), "")
        return {"loss": 1.0}

    budget = Budget(16384)
    found = budget.spend(update)
    assert asked == [16384, 1500, 750, 375, 187]
    assert found == {"loss": 1.0, "out_of_memory": 4.0, "max_tokens": 187.0}
    assert budget.spend(update) == {"loss": 1.0, "max_tokens": 187.0}


def test_moments_that_memory_does_not_hold_are_named(model, tokenizer, batch, rule, monkeypatch):
    learner = TorchLearner(model, tokenizer, ADAM)
    before = [p.detach().clone() for p in model.parameters()]

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    monkeypatch.setattr(NamedAdamW, "_held", full)
    with pytest.raises(Stranded, match=r"for the moments of optimizer 'main' \(0.0\d GiB"):
        learner.update(batch, rule, "main", 0)
    for a, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(a, b)
