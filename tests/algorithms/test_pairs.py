"""Preference pairs: who is paired, the loss of a pair, and that nothing parts the two."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from didact.algorithms.pairs import Pair, Pairwise
from didact.core.backends.learning import micro_batches
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.batch import Batch, together
from didact.core.errors import RecipeError
from didact.core.phase import Phase, Trigger
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.core.where import EVERYTHING
from didact.core.world import Alone
from didact.feedback.buffers import Queue

GOLDEN = Path(__file__).parents[1] / "golden" / "feedback" / "mmrlhf_dpo_loss.json"


class Renderer:
    """FAKE renderer: the numbers of the tokens."""

    def text(self, tokens):
        return " ".join(map(str, tokens.tolist()))


@dataclass
class Run:
    """What the stage reads of a run."""

    seed: int = 1
    step: int = 0
    renderer: Renderer = field(default_factory=Renderer)
    metrics: dict = field(default_factory=dict)
    drawn: Counter = field(default_factory=Counter)
    learners: dict = field(default_factory=dict)
    frozen: dict = field(default_factory=dict)
    generators: dict = field(default_factory=lambda: {"policy": SimpleNamespace(version=0)})


def row(reward=0.0, length=3, name="p", columns=None, **signals):
    shown = Prompt(name, torch.tensor([1, 2]), Problem(name, name))
    tokens = torch.arange(3, 3 + length)
    flags = torch.ones(length, dtype=torch.bool)
    signals = {"reward": reward, **signals}
    return Trajectory(shown, tokens, flags, "policy", signals=signals, columns=columns or {})


def group(*rewards, name="p"):
    members = tuple(row(reward, 2 + at, name) for at, reward in enumerate(rewards))
    return Group(members[0].prompt, members)


def test_the_best_are_paired_with_the_worst_and_the_rest_is_dropped():
    run = Run()
    (found,) = Pair(most=2)([group(1.0, 0.0, 3.0, 2.0, 2.0)], run)
    told = [(m.signals["reward"], m.signals["preferred"]) for m in found.members]
    assert told == [(3.0, 1.0), (0.0, 0.0), (2.0, 1.0), (1.0, 0.0)]
    numbers = [m.signals["pair"] for m in found.members]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    assert (run.metrics["pair/made"], run.metrics["pair/dropped"]) == (2, 1)


def test_equal_answers_make_no_pair_and_a_margin_is_left_out():
    assert Pair()([group(1.0, 1.0)], Run())[0].members == ()
    assert Pair(margin=1.0)([group(1.0, 0.0)], Run())[0].members == ()
    assert len(Pair(margin=0.9)([group(1.0, 0.0)], Run())[0].members) == 2
    assert len(Pair(most=9)([group(2.0, 1.0, 0.0)], Run())[0].members) == 2


def test_pairs_have_numbers_of_their_own():
    run = Run()
    groups = Pair()([group(1.0, 0.0, name=name) for name in "abab"], run)
    for run.step in (0, 1):  # once more in this step, as in a further round of `fill`
        groups += Pair()([group(1.0, 0.0, name=name) for name in "ab"], run)
    assert len({m.signals["pair"] for g in groups for m in g.members}) == 8


def test_the_other_answer_may_be_cut_after_its_first_pit():
    ends, values = [0.0, 1, 0, 1, 1], [0.0, 0.5, 0, 0.2, 0.2]
    columns = {"step_end": torch.tensor(ends), "step_value": torch.tensor(values)}
    members = (row(1.0), row(0.0, 5, columns=columns))
    stage = Pair(cut="step_value")
    assert stage.needs == {"reward", "step_value", "step_end"}
    (found,) = stage([Group(members[0].prompt, members)], Run())
    best, cut = found.members
    assert best.tokens.tolist() == [3, 4, 5]
    assert cut.tokens.tolist() == [3, 4, 5, 6] and cut.text == "3 4 5 6"
    assert cut.trainable.shape == cut.columns["step_end"].shape == (4,)


def pair_of(chosen, rejected, number):
    """A pair of answers of one token each, with reference log-probabilities."""
    return [
        row(length=1, pair=number, preferred=p, columns={"ref_logprobs": torch.tensor([value])})
        for p, value in ((1.0, chosen), (0.0, rejected))
    ]


def test_loss_and_gradient_are_those_of_released_dpo():
    """The first case of MM-RLHF's DPO with a constant factor, whose beta is 0.1 (1 + 0.5 x 1)."""
    case = json.loads(GOLDEN.read_text())["cases"][0]
    given, out = case["inputs"], case["outputs"]
    assert given["ls_factor"] == 1.0 and given["label_smoothing"] == 1.0
    beta = given["beta"] * (1 + given["ls_factor_weight"])
    rows = []
    for at, refs in enumerate(zip(given["ref_chosen"], given["ref_rejected"], strict=True)):
        rows += pair_of(*refs, float(at))
    policy = [
        value
        for both in zip(given["policy_chosen"], given["policy_rejected"], strict=True)
        for value in both
    ]
    logprobs = torch.tensor(policy, dtype=torch.float64)[:, None].requires_grad_()
    batch = Batch(tuple(rows))
    value = Pairwise(beta=beta).over(batch, 0)(batch, {"logprobs": logprobs})["pairwise"]
    value.backward()
    losses = torch.tensor(out["losses"], dtype=torch.float64)
    torch.testing.assert_close(value, losses.mean(), rtol=0, atol=1e-12)
    wanted = torch.tensor(out["grad_policy_chosen_of_mean"], dtype=torch.float64)
    torch.testing.assert_close(logprobs.grad[0::2, 0], wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(logprobs.grad[1::2, 0], -wanted, rtol=0, atol=1e-12)


def test_half_smoothing_has_no_preference():
    batch = Batch(tuple(pair_of(-1.0, -1.0, 0.0)))
    logprobs = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    Pairwise(smoothing=0.5).over(batch, 0)(batch, {"logprobs": logprobs})["pairwise"].backward()
    assert logprobs.grad.abs().max() == 0


def test_a_row_without_its_partner_is_an_error():
    rule = Pairwise()
    with pytest.raises(RecipeError, match=r"1 row\(s\) of one pair"):
        rule.over(Batch(tuple(pair_of(0.0, 0.0, 1.0)[:1])), 0)
    with pytest.raises(RecipeError, match="make pairs with stage 'pair'"):
        rule.over(Batch((row(),)), 0)


def pairs(count):
    rows = []
    for at in range(count):
        for preferred, length in ((1.0, 2 + at % 5), (0.0, 7 - at % 3)):
            column = {"ref_logprobs": torch.full((length,), -2.0)}
            rows.append(row(length=length, columns=column, pair=float(at), preferred=preferred))
    return rows


def test_micro_batches_and_mini_batches_never_part_a_pair():
    rows = pairs(7)
    rows = [*rows[0::2], *rows[1::2]]  # partners far apart
    batch = Batch(tuple(rows))
    micro = micro_batches(batch, range(len(rows)), 20, Alone(), False)
    assert len(micro) > 2 and sum(map(len, micro)) == 14
    assert all(len(unit) == 2 for part in micro for unit in together(part.rows))
    phase = Phase("rl", EVERYTHING, Queue(), Trigger(), Pairwise(), batch_size=5)
    phase.pool.add(rows)
    frozen = type("Frozen", (), {"freeze": lambda self, given, columns: given})()
    batches = list(phase.batches(Run(frozen={"ref": frozen})))
    assert [len(part) for part in batches] == [4, 4, 6]
    assert all(len(unit) == 2 for part in batches for unit in together(part.rows))


def test_rows_without_a_pair_stand_alone():
    rows = [row(), row(), *pairs(1)]
    assert together(rows) == [[0], [1], [2, 3]]


@pytest.mark.parametrize("packing", [True, False])
def test_the_update_does_not_depend_on_micro_batches(packing):
    torch.set_num_threads(1)
    config = {
        "model_type": "qwen3",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 16,
    }
    spec = ModelSpec(config=config, tokenizer="characters")
    after = []
    for budget in (1000, 20):
        tokenizer = load_tokenizer(spec)
        learner = TorchLearner(
            load_model(spec, tokenizer),
            tokenizer,
            {"main": OptimizerSpec(lr=1e-2)},
            max_tokens=budget,
            packing=packing,
        )
        learner.update(Batch(tuple(pairs(5))), Pairwise(beta=0.5), "main", 0)
        after.append({name: value.clone() for name, value in learner.weights()})
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, rtol=0, atol=1e-5)
