"""Stages that allot and balance do what the pure functions, checked against released code, say."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from didact.algorithms import allocation
from didact.algorithms.allotment import (
    AllotByAccuracy,
    AllotByGradient,
    Balance,
    logit_gradient_norm,
)
from didact.core.errors import RecipeError
from didact.core.types import Group, Problem, Prompt, Trajectory

GOLDEN = Path(__file__).parents[1] / "golden" / "update_rules" / "other_repos_advantages.json"
CASES = json.loads(GOLDEN.read_text())


@dataclass
class Run:
    """What these stages read of a run."""

    metrics: dict = field(default_factory=dict)


def answer(text="", **signals):
    shown = Prompt("p", torch.tensor([1]), Problem("p", "p"))
    tokens = torch.arange(2)
    flags = torch.ones(2, dtype=torch.bool)
    return Trajectory(shown, tokens, flags, "policy", text=text, signals=signals)


def group(members=(), **signals):
    return Group(Prompt("p", torch.tensor([1]), Problem("p", "p")), tuple(members), signals)


def cases(prefix):
    found = [case for case in CASES["cases"] if case["case"].startswith(prefix)]
    assert found
    return found


def value(x):
    if isinstance(x, str) and x.startswith("$"):
        bundle, name = x[1:].split(".")
        return CASES["bundles"][bundle][name]
    return x


@pytest.mark.parametrize("case", cases("reinforce_ada/down"), ids=lambda case: case["case"])
def test_balance_keeps_the_answers_that_reinforce_ada_keeps(case):
    wins, losses = value(case["inputs"]["n_pos"]), value(case["inputs"]["n_neg"])
    members = [answer(f"p{at}", success=1.0) for at in range(wins)]
    members += [answer(f"n{at}", success=0.0) for at in range(losses)]
    stage = Balance(keep=case["args"]["target_total"])
    run = Run()
    (kept,) = stage([group(members)], run)
    assert [member.text for member in kept.members] == case["outputs"]["selected"]
    assert run.metrics["balance/dropped"] == len(members) - len(kept.members)


def test_balance_is_first_come_first_kept_in_the_order_of_the_group():
    members = [answer(str(at), success=float(s)) for at, s in enumerate([0, 1, 0, 1, 0, 1])]
    (kept,) = Balance(keep=4)([group(members, success_rate=0.5)], Run())
    assert [member.text for member in kept.members] == ["0", "1", "2", "3"]
    assert kept.signals == {"success_rate": 0.5}


def test_balance_by_what_was_sampled_keeps_its_share_of_successes():
    members = [answer(success=float(at < 2)) for at in range(16)]
    (kept,) = Balance(keep=4, successes="sampled")([group(members)], Run())
    assert [m.signals["success"] for m in kept.members] == [1.0, 0.0, 0.0, 0.0]


def test_an_answer_without_success_is_an_error():
    with pytest.raises(RecipeError, match="a policy answer of prompt 'p' has no 'success'"):
        Balance(keep=2)([group([answer()])], Run())


@pytest.mark.parametrize(("schedule", "most"), [("equal", 32), ("weighted", 64)])
def test_dars_allots_what_its_schedule_says(schedule, most):
    groups = [
        group([answer()] * 8, success_rate=k / 8, positives=float(k), negatives=8.0 - k)
        for k in range(9)
    ]
    found = AllotByAccuracy(most=most, schedule=schedule)([*groups, group()], Run())
    wanted = [allocation.dars_extra(k / 8, n=8, most=most, schedule=schedule) for k in range(9)]
    assert [int(g.signals["allotted"]) for g in found] == [*wanted, 0]


@pytest.mark.parametrize("case", cases("gvm"), ids=lambda case: case["case"])
def test_gvm_allots_what_the_release_allots(case):
    norms, rates = value(case["inputs"]["G"]), value(case["inputs"]["accept_rate"])
    total = case["args"]["N"]
    if total % len(rates):
        pytest.skip("not a whole number of answers per prompt")
    groups = [
        group(
            [answer(success=1.0, gradient_norm=norm), answer(success=0.0)],
            success_rate=rate,
        )
        for norm, rate in zip(norms, rates, strict=True)
    ]
    stage = AllotByGradient(
        per_prompt=total // len(rates), alpha=case["args"]["alpha"], beta=case["args"]["beta"]
    )
    run = Run()
    counts = [int(g.signals["allotted"]) for g in stage(groups, run)]
    assert counts == case["outputs"]["allocation"]
    assert run.metrics["allotted/most"] == max(counts)


def test_gvm_reads_the_norms_of_successes_only_and_a_hopeless_step_gets_nothing():
    hopeless = [group([answer(success=0.0)], success_rate=0.0) for _ in range(3)]
    found = AllotByGradient()(hopeless, Run())
    assert [g.signals["allotted"] for g in found] == [0.0] * 3
    with pytest.raises(RecipeError, match="gradient_norm"):
        AllotByGradient()([group([answer(success=1.0)], success_rate=1.0)], Run())


def test_the_norm_is_that_of_the_gradient_by_the_logits():
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(0, 7, (5,))
    logprobs = logits.log_softmax(-1)
    chosen = logprobs[torch.arange(5), tokens]
    mask = torch.tensor([[True, True, False, True, True]])
    chosen[mask[0]].sum().backward()
    collision = (2 * logprobs).exp().sum(-1)
    ours = logit_gradient_norm(mask, chosen[None].detach(), collision[None].detach())
    assert ours["gradient_norm"].item() == pytest.approx(logits.grad.norm().item(), abs=1e-12)
    assert math.isfinite(ours["gradient_norm"].item())
