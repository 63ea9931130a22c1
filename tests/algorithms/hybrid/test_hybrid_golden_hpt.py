"""HPT's gate and loss, and its version of SRFT, against the released code.

Figures: TsinghuaC3I/Unify-Post-Training at ae332f5, executed. SRFT's own authors released no code
that could be run: what is compared here is another group's reading of that paper.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from didact.algorithms.entropy_weighted import sequence_entropy
from didact.algorithms.mixing import by_success
from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.regularizers import negative_entropy
from didact.algorithms.rules import Bound
from didact.algorithms.shaped import reshaped_ratio, shaped_likelihood
from didact.algorithms.supervised import negative_log_likelihood
from didact.core.stages import Keep, Rollout
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.core.where import Where

HPT = "hybrid/hpt_gating_loss.json"
SOFT = {  # `mix_trainer.py`, read but not executed, type 1: by number of correct rows of eight
    "on": [1, 0, 0.125, 0.25, 0.5, 1, 1, 1, 1],
    "off": [1, 1, 1, 1, 1, 1, 1, 1, 1],
    "sft": [1, 1, 0.5, 0.25, 0.125, 0, 0, 0, 0],
}
SRFT = "hybrid/srft_loss_hpt_reimpl.json"
OFF = {"clip_low": math.inf, "clip_high": math.inf}
ORIGINS = ["policy", "policy", "policy", "demonstration"]
DEMONSTRATION = {"origin": "demonstration"}


@pytest.mark.parametrize("at", range(4))
def test_the_gates_are_choices_by_success_rate(compose, at):
    """With k of 8 correct: a demonstration for supervision where k <= gate, one for off-policy RL
    where gate < k <= gate_off, and the rollouts stay where k > gate_off."""
    case = compose.golden(HPT)["gating"][at]
    gate, gate_off = case["switch_gate"] / 8, case["switch_gate_off"] / 8
    supervised = Where.model_validate({"success_rate": {"at_most": gate}})
    off_policy = Where.model_validate({"success_rate": {"above": gate, "at_most": gate_off}})
    kept = Where.model_validate({"success_rate": {"above": max(gate, gate_off)}})
    prompt = Prompt("a", torch.tensor([1]), Problem("a", "a"))
    for correct, wanted in case["by_num_correct"].items():
        group = Group(prompt, signals={"success_rate": int(correct) / 8})
        got = {
            "on_remove_num": 0 if kept(group) else 8,
            "on_add_num": 0,
            "off_add_num": 1 if supervised(group) else -1 if off_policy(group) else 0,
        }
        assert got == wanted


@pytest.mark.parametrize("at", range(2))
def test_gated_loss_has_the_released_value_and_gradient(compose, at):
    data = compose.golden(HPT)
    given, case = data["inputs"], data["cases"][at]
    batch = compose.rows(
        given["mask"],
        prompts=given["groups"],
        origins=ORIGINS,
        signals={"advantages": compose.first(data["advantages"])},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    terms = hpt_terms(compose, case["sft_loss_coef"])
    live = {"logprobs": compose.leaf(given["log_prob"])}
    values = compose.agrees(terms, batch, live, case["total"], case["grad_wrt_log_prob"])
    assert values["pg"] == pytest.approx(case["pg_loss"], abs=1e-7)


class Expert:
    """FAKE source: one demonstration for each group it is asked about."""

    def extend(self, groups, run):
        token = torch.ones(1, dtype=torch.int64)
        return [[Trajectory(g.prompt, token, token.bool(), "demonstration")] for g in groups]


@pytest.mark.parametrize("at", range(4))
def test_two_stages_carry_out_the_gate(compose, at):
    """`keep` drops the rollouts of failed groups, `rollout` puts a demonstration in their place."""
    case = compose.golden(HPT)["gating"][at]
    gate = max(case["switch_gate"], case["switch_gate_off"]) / 8
    keep = Keep(members=Where.model_validate({"success_rate": {"above": gate}}))
    fill = Rollout(Expert(), where=Where.model_validate({"success_rate": {"at_most": gate}}))
    prompt = Prompt("a", torch.tensor([1]), Problem("a", "a"))
    token = torch.ones(1, dtype=torch.int64)
    own = tuple(Trajectory(prompt, token, token.bool(), "policy") for _ in range(8))
    run = SimpleNamespace(metrics={}, step=0)
    for correct, wanted in case["by_num_correct"].items():
        group = Group(prompt, own, signals={"success_rate": int(correct) / 8})
        (after,) = fill(keep([group], run), run)
        origins = [member.origin for member in after.members]
        assert origins.count("policy") == 8 - wanted["on_remove_num"]
        assert origins.count("demonstration") == abs(wanted["off_add_num"])


def hpt_terms(compose, coefficient):
    return [
        compose.term(ppo_clip, "pg", where={"origin": "policy"}, average=12.0, **OFF),
        compose.term(negative_log_likelihood, "sft", weight=coefficient, where=DEMONSTRATION),
    ]


def test_a_batch_without_demonstrations_or_without_rollouts_has_a_loss_of_zero_there(compose):
    """The release makes NaN of the first and then skips it."""
    data = compose.golden(HPT)
    assert data["empty_cases"] == {"sft_loss_no_demo": "nan", "pg_loss_no_rollout": 0.0}
    for missing, origin in (("sft", "policy"), ("pg", "demonstration")):
        batch = compose.rows(
            [[1, 1]],
            origins=[origin],
            signals={"advantages": [1.0]},
            columns={"old_logprobs": [[-1.0, -1.0]]},
        )
        live = {"logprobs": compose.leaf([[-1.0, -0.5]])}
        values = compose.loss(hpt_terms(compose, 1.0), batch, live)
        assert float(values[missing].detach()) == 0.0
        assert torch.autograd.grad(sum(values.values()), live["logprobs"])[0].isfinite().all()


def test_the_soft_variant_mixes_three_terms_by_the_groups_successes(compose):
    """Composed from a table that was read, not run: no released figure to compare with."""
    rates = [2 / 8, 2 / 8, 5 / 8, 5 / 8]
    batch = compose.rows(
        [[1]] * 4,
        prompts=["a", "a", "b", "b"],
        origins=["policy", "demonstration"] * 2,
        signals={"advantages": [-0.25, 0.75, 0.5, 0.5], "success_rate": rates},
        columns={"old_logprobs": [[-1.0]] * 4},
    )
    live = {"logprobs": compose.leaf([[-1.0], [-2.0], [-1.0], [-0.5]])}

    def soft(part):
        return {"times": [Bound(by_success, {"coefficients": SOFT[part]})]}

    own = {"origin": "policy"}
    terms = [
        compose.term(ppo_clip, "on", where=own, average=8.0, **soft("on"), **OFF),
        compose.term(shaped_likelihood, "off", where=DEMONSTRATION, average=8.0, **soft("off")),
        compose.term(negative_log_likelihood, "sft", where=DEMONSTRATION, **soft("sft")),
    ]
    on = -(0.125 * -0.25 + 1.0 * 0.5) / 8
    off = -sum(a * p / (p + 0.1) for a, p in ((0.75, math.exp(-2)), (0.5, math.exp(-0.5)))) / 8
    sft = (0.5 * 2.0 + 0.0 * 0.5) / 2
    values = compose.agrees(terms, batch, live, on + off + sft)
    assert values == pytest.approx({"on": on, "off": off, "sft": sft}, abs=1e-7)


def srft_self_terms(compose, kind):
    """+0.1 exp(H) "ratio" for correct rollouts, -1 "ratio" for wrong ones; `kind` says which."""
    right, wrong = {"origin": "policy", "reward": 1}, {"origin": "policy", "reward": 0}
    weigh = {"times": [Bound(sequence_entropy, {"sign": 1.0})], "average": 12.0}
    loss, settings = {
        "paper": (negative_log_likelihood, {}),
        "exp": (shaped_likelihood, {"reshape": "none", "bind": {"advantages": "one"}}),
        "minus_old": (reshaped_ratio, {"reshape": "logp", "bind": {"advantages": "one"}}),
    }[kind]
    return [
        compose.term(loss, "right", weight=0.1, where=right, **weigh, **settings),
        compose.term(loss, "wrong", weight=-1.0, where=wrong, average=12.0, **settings),
    ]


@pytest.mark.parametrize("at", range(3))
def test_srft_as_hpt_has_it_agrees_in_value_and_gradient_at_the_logits(compose, at):
    data = compose.golden(SRFT)
    given, case = data["inputs"], data["cases"][at]
    logits = compose.leaf(given["logits"])
    log_p = logits.log_softmax(-1)
    live = {
        "logprobs": log_p.gather(-1, torch.tensor(given["labels"])[..., None]).squeeze(-1),
        "entropy": -(log_p.exp() * log_p).sum(-1),
    }
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        origins=ORIGINS,
        signals={
            "advantages": compose.first(data["advantages"]),
            "reward": [sum(row) for row in given["token_level_rewards"]],
            "one": [1.0] * 4,
        },
        columns={"old_logprobs": given["old_log_prob"]},
    )
    pg = [
        *srft_self_terms(compose, case["srft_type"]),
        compose.term(shaped_likelihood, "shaped", where=DEMONSTRATION, average=12.0),
    ]
    sft = compose.term(
        negative_log_likelihood,
        "sft",
        weight=0.5,
        where=DEMONSTRATION,
        times=[Bound(sequence_entropy, {"sign": -1.0})],
    )
    entropy = compose.term(negative_entropy, "entropy", weight=0.001)
    values = compose.loss([*pg, sft, entropy], batch, live)
    figure = {label: float(value.detach()) for label, value in values.items()}
    assert figure["sft"] == pytest.approx(case["sft_loss"], abs=1e-7)
    policy = figure["right"] + figure["wrong"] + figure["shaped"]
    assert policy == pytest.approx(case["pg_loss"], abs=1e-7)
    total = sum(values.values())
    assert sum(figure.values()) == pytest.approx(case["total"], abs=1e-7)
    (gradient,) = torch.autograd.grad(total, logits)
    assert float(gradient.norm()) == pytest.approx(case["grad_logits_norm"], abs=1e-7)
    wanted = torch.tensor(case["grad_logits_row0"], dtype=torch.float64)
    torch.testing.assert_close(gradient[0], wanted, rtol=0, atol=1e-7)


def test_the_weights_of_rows_are_the_released_ones(compose):
    case = compose.golden(SRFT)["cases"][0]
    entropy = torch.tensor(case["H"], dtype=torch.float64)[:, None]
    mask = torch.ones(4, 1, dtype=torch.bool)
    for sign, factor, key in ((-1.0, 0.5, "w_sft"), (1.0, 0.1, "w_rl")):
        got = factor * sequence_entropy(entropy, mask, sign=sign)
        torch.testing.assert_close(got, torch.tensor(case[key]).double(), rtol=0, atol=1e-7)
