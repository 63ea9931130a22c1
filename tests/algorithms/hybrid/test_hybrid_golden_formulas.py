"""Gates, schedules and learned weights of the hybrid methods.

Derived from papers and from reading code: none of these figures is anybody's released output
(tiny_examples.json, derived_schedules.json). They check that methods whose code is not to be had
are composed as their formulas say: reconstructions, not reproductions. Losses over the worked
examples are in test_hybrid_golden_examples.
"""

import math

import pytest
import torch

from didact.algorithms.mixing import by_success, shortfall
from didact.algorithms.rules import Sum
from didact.algorithms.supervised import negative_log_likelihood
from didact.algorithms.token_advantages import gae
from didact.core.learned import Learned
from didact.core.schedule import Schedule
from didact.core.types import Group, Problem, Prompt
from didact.core.where import Where

TINY = "hybrid/tiny_examples.json"
DERIVED = "hybrid/derived_schedules.json"


def group(correct, size=8, **signals):
    rate = correct / size
    spread = math.sqrt(rate * (1 - rate))
    known = {"success_rate": rate, "reward_mean": rate, "reward_std": spread, **signals}
    return Group(Prompt("a", torch.tensor([1]), Problem("a", "")), signals=known)


@pytest.mark.parametrize(
    "key, gate, yes",
    [
        ("relift_buffered", {"success_rate": 0}, True),
        ("hpt_gate0", {"success_rate": {"at_most": 0}}, "SFT"),
        ("hpt_gate2", {"success_rate": {"at_most": 0.25}}, "SFT"),
        ("superrl_reward_gate", {"success_rate": 0}, "SFT"),
        ("superrl_adv_gate", {"reward_std": 0}, "SFT"),
        ("ahpo_Rhat4_xi", {"success_rate": {"below": 0.5}}, 1),
    ],
)
def test_gates_open_for_the_counts_their_papers_say(compose, key, gate, yes):
    gates = compose.golden(TINY)["gates"]
    where = Where.model_validate(gate)
    for correct, wanted in zip(gates["num_correct"], gates[key], strict=True):
        assert where(group(correct)) == (wanted == yes)


def test_the_ahpo_gate_is_a_choice_and_also_a_table_of_ones_and_zeros(compose):
    for case in compose.golden(DERIVED)["ahpo_gate"]:
        limit = case["R_hat"]
        where = Where.model_validate({"success_rate": {"below": limit / 4}})
        one = group(case["num_correct"], size=4)
        assert where(one) == (case["xi"] == 1)
        table = [1.0] * limit + [0.0] * (5 - limit)
        rate = torch.tensor([one.signals["success_rate"]])
        assert by_success(rate, coefficients=table).tolist() == [case["xi"]]


def test_the_superrl_gate_supervises_where_no_rollout_is_right(compose):
    supervise = Where.model_validate({"success_rate": 0})
    for case in compose.golden(DERIVED)["superrl_gate"]:
        one = group(sum(case["rewards"]), size=len(case["rewards"]))
        assert supervise(one) == (case["loss"] == "SFT") == (case["c"] == 0)


def test_losses_weighted_by_learned_noise_add_up_as_derived(compose):
    for case in compose.golden(DERIVED)["hybrid_log_sigma"]:
        origins = ["policy", "policy", "demonstration"]
        batch = compose.rows([[1, 1], [1, 0], [1, 1]], origins=origins)
        logprobs = compose.leaf([[-case["L_pg"]] * 2] * 2 + [[-case["L_sft"]] * 2])
        sigmas = {name: compose.leaf(case[name]) for name in ("s_pg", "s_sft")}
        terms = [
            compose.term(
                negative_log_likelihood, s, weight=Learned(learned=s), where={"origin": origin}
            )
            for s, origin in (("s_pg", "policy"), ("s_sft", "demonstration"))
        ]
        bound = Sum(terms).over(batch, 0)
        parts = [(batch, slice(None)), (batch.take([1]), [1]), (batch.take([0, 2]), [0, 2])]
        whole, *cut = (
            sum(bound(part, {"logprobs": logprobs[rows], **sigmas}).values())
            for part, rows in parts
        )
        for total in (whole, sum(cut)):
            assert float(total.detach()) == pytest.approx(case["total"], abs=1e-12)
            total.backward()
            # d/ds (exp(-2 s) L + s) = 1 - 2 exp(-2 s) L, once however the rows are cut
            for loss, s in (("L_pg", "s_pg"), ("L_sft", "s_sft")):
                wanted = 1 - 2 * math.exp(-2 * case[s]) * case[loss]
                assert float(sigmas[s].grad) == pytest.approx(wanted, abs=1e-12)
                sigmas[s].grad = None


def test_the_adaptive_mu_is_the_shortfall_of_the_mean_reward(compose):
    for case in compose.golden(DERIVED)["chord_adaptive_mu"]:
        mean = torch.tensor([case["reward_mean"]], dtype=torch.float64)
        assert float(shortfall(mean, target=case["tau"])) == pytest.approx(case["mu"], abs=1e-12)


def test_the_share_of_a_hint_falls_by_a_cosine_and_by_stages(compose):
    """UFT's probability of a hint sentence up to its last hint step, and its staged baseline."""
    uft = compose.golden(DERIVED)["uft"]
    case = uft["schedule"][0]
    share = Schedule(cosine=(case["upper"], case["lower"]), over=case["T_hint"])
    for step, wanted in (case["prob"] | compose.golden(TINY)["uft"]["p_hint"]).items():
        assert share(int(step)) == pytest.approx(wanted, abs=1e-12)
    stages = Schedule(steps={50 * n: float(5 - n) for n in range(6)})
    for step, wanted in uft["stage_slice"].items():
        assert stages(int(step)) == wanted


def test_no_hint_tokens_is_a_loss_of_zero_and_some_are_averaged(compose):
    """UFT's masked mean is 0 when nothing is masked in (liumy2010/UFT at ad3c8ec, executed; the
    inputs of its other figure are not recorded). The hint is a prefix of the response."""
    uft = compose.golden(DERIVED)["uft"]
    term = compose.term(negative_log_likelihood, tokens={"prefix": 1})
    live = {"logprobs": compose.leaf([[-2.0, -3.0, -99.0, -7.0]])}
    for prefix, wanted in (([1, 1, 0, 0], 2.5), ([0] * 4, uft["masked_mean_empty"])):
        batch = compose.rows([[1, 1, 1, 0]], columns={"prefix": [prefix]})
        compose.agrees([term], batch, live, wanted)


def test_chords_mu_of_the_worked_example_is_a_rise_and_a_fall(compose):
    rise = Schedule(linear=(0.0, 0.5), over=200)
    fall = Schedule(cosine=(0.0, 0.02 - 0.5), over=400, start=200)
    for step, wanted in compose.golden(TINY)["chord_mu"].items():
        assert rise(int(step)) + fall(int(step)) == pytest.approx(wanted, abs=1e-6)


def test_generalised_advantages_of_reft_before_whitening(compose):
    given = compose.golden(TINY)["reft_gae"]
    rewards = -given["beta"] * torch.tensor([given["kl"]], dtype=torch.float64)
    rewards[0, -1] += 1.0  # the terminal reward beside the penalty of the last token
    assert rewards[0].tolist() == pytest.approx(given["token_rewards"], abs=1e-9)
    values = torch.tensor([given["values"]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    got = gae(rewards, mask, values, gamma=given["gamma"], lam=given["lam"], whitened=False)
    assert got["advantages"][0].tolist() == pytest.approx(given["adv"], abs=1e-6)
    assert got["returns"][0].tolist() == pytest.approx(given["returns"], abs=1e-6)
