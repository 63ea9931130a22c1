"""The rules of packaged hybrid recipes against the released losses: value and gradient."""

import pytest
import torch

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.plugins.manager import load

REGISTRY = load(installed=False)
TOTAL = ["phases.rl.average={total: 12}"]
"""The released sums are divided by the padded length of their inputs."""


def rule_of(name, overrides=()):
    document = read(name, list(overrides))
    parts = assemble(check(document, REGISTRY), REGISTRY, document)
    return next(phase.rule for phase in parts.phases if phase.name == "rl")


def agrees(rule, batch, given, step, value, gradient, without=()):
    leaf = torch.tensor(given["log_prob"], dtype=torch.float64, requires_grad=True)
    live = {"logprobs": leaf, "entropy": torch.zeros_like(leaf)}
    found = rule.over(batch, step)(batch, live)
    loss = sum(term for label, term in found.items() if label not in without)
    assert float(loss.detach()) == pytest.approx(value, abs=1e-7, rel=0)
    (slope,) = torch.autograd.grad(loss, leaf)
    wanted = torch.tensor(gradient, dtype=torch.float64)
    torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("recipe", "at"), [("chord_phi", 0), ("chord_mu", 1)])
def test_chord(compose, recipe, at):
    """Constant mu 0.1 with p (1 - p); and mu from 0.9 to 0.05 by a cosine over 200 steps."""
    data = compose.golden("hybrid/chord_loss.json")
    given, case = data["inputs"], data["cases"][at]
    batch = compose.rows(
        given["mask"],
        origins=["demonstration" if expert else "policy" for expert in given["expert_mask"]],
        signals={"advantages": given["advantages"]},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    rule = rule_of(recipe)
    agrees(rule, batch, given, case["step"], case["loss"], case["grad_wrt_logprob"])


@pytest.mark.parametrize(
    ("recipe", "file"), [("luffy", "luffy_mixed_loss.json"), ("rl_plus", "rl_plus_loss.json")]
)
def test_demonstrations_in_the_group(compose, recipe, file):
    """The entropy bonus, which the released function does not have, is left out."""
    data = compose.golden(f"hybrid/{file}")
    given, case = data["inputs"], data["cases"][0]
    advantages = data["advantages"]
    advantages = advantages["mixed_no_std"] if isinstance(advantages, dict) else advantages
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        origins=["policy"] * 3 + ["demonstration"],
        signals={"advantages": compose.first(advantages)},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    value, gradient = case["outputs"]["pg_loss"], case["grad_wrt_log_prob"]
    agrees(rule_of(recipe, TOTAL), batch, given, 0, value, gradient, without=("entropy_bonus",))


def test_hpt(compose):
    """Rollouts of a solved prompt, and the demonstration of another, coefficient 1."""
    data = compose.golden("hybrid/hpt_gating_loss.json")
    given = data["inputs"]
    case = next(case for case in data["cases"] if case["sft_loss_coef"] == 1.0)
    batch = compose.rows(
        given["mask"],
        prompts=given["groups"],
        origins=["policy"] * 3 + ["demonstration"],
        signals={"advantages": compose.first(data["advantages"])},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    value, gradient = case["total"], case["grad_wrt_log_prob"]
    agrees(rule_of("hpt", TOTAL), batch, given, 0, value, gradient, without=("entropy_bonus",))


def test_rl_with_sft_loss(compose):
    """Coefficient 1, no clip, as the script runs it."""
    data = compose.golden("hybrid/luffy_rl_with_sft_loss.json")
    given = data["inputs"]
    case = next(
        case for case in data["cases"] if case["sft_loss_coef"] == 1.0 and case["loss_remove_clip"]
    )
    batch = compose.rows(
        given["mask"],
        origins=["demonstration" if demo else "policy" for demo in given["is_demo"]],
        signals={"advantages": compose.first(given["advantages"])},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    rule = rule_of("rl_sft_loss", TOTAL)
    agrees(
        rule, batch, given, 0, case["total"], case["grad_wrt_log_prob"], without=("entropy_bonus",)
    )
