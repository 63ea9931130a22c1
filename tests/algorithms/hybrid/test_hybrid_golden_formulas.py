"""Worked examples and schedules of the hybrid methods.

Derived from papers and from reading code: none of these figures is anybody's released output
(tiny_examples.json, derived_schedules.json). They check that methods whose code is not to be had
are composed as their formulas say: reconstructions, not reproductions.
"""

import math

import pytest
import torch

from didact.algorithms.entropy_weighted import sequence_entropy
from didact.algorithms.mixing import by_success, shortfall
from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.regularizers import negative_entropy
from didact.algorithms.rules import Bound, Sum
from didact.algorithms.shaped import mixture_likelihood, shaped_likelihood
from didact.algorithms.supervised import (
    hardness,
    negative_log_likelihood,
    probability,
    uncertainty,
)
from didact.algorithms.token_advantages import gae
from didact.core.learned import Learned
from didact.core.schedule import Schedule
from didact.core.types import Group, Problem, Prompt
from didact.core.where import Where

TINY = "hybrid/tiny_examples.json"
DERIVED = "hybrid/derived_schedules.json"
OFF = {"clip_low": math.inf, "clip_high": math.inf}


def own_rows(compose, advantages, count=4):
    """The shared group: lengths 3, 2, 4, 1, old log-probability -1, a shift for each row."""
    given = compose.golden(TINY)["on_policy_group"]
    mask = [[1] * n + [0] * (4 - n) for n in given["lengths"]][:count]
    batch = compose.rows(
        mask,
        prompts=["a"] * count,
        signals={"advantages": given[advantages][:count]},
        columns={"old_logprobs": [[given["old_logp"]] * 4] * count},
    )
    shifts = [[given["old_logp"] + shift] * 4 for shift in given["delta"][:count]]
    return given, batch, {"logprobs": compose.leaf(shifts)}


@pytest.mark.parametrize(
    "key, advantages, options",
    [
        ("relift_pg_noclip_const", "adv_no_std", {"average": 4.0, **OFF}),
        ("rl_baseline_clip02_const", "adv_no_std", {"average": 4.0}),
        ("noclip_tokenmean", "adv_no_std", OFF),
        ("clip02_tokenmean_std", "adv_std_unbiased_eps1e6", {}),
        ("clip02_seqmean_std", "adv_std_unbiased_eps1e6", {"average": "sequences"}),
        ("cliphigher_02_028_tokenmean_std", "adv_std_unbiased_eps1e6", {"clip_high": 0.28}),
    ],
)
def test_conventions_of_the_policy_gradient_on_the_shared_group(compose, key, advantages, options):
    given, batch, live = own_rows(compose, advantages)
    compose.agrees([compose.term(ppo_clip, **options)], batch, live, given[key], atol=1e-6)


def demonstration(compose, **signals):
    given = compose.golden(TINY)["demo_row"]
    batch = compose.rows(
        [[1, 1, 1]], origins=["demonstration"], signals={k: [v] for k, v in signals.items()}
    )
    live = {
        "logprobs": compose.leaf([[math.log(p) for p in given["p"]]]),
        "entropy": compose.leaf([given["entropy"]]),
    }
    return given, batch, live


@pytest.mark.parametrize(
    "key, options",
    [
        ("sft_token_mean", {}),
        ("dft", {"times": [Bound(probability)]}),
        ("chord_is", {"times": [Bound(probability)]}),
        ("chord_phi", {"times": [Bound(uncertainty)]}),
        ("srft_sft_term", {"times": [Bound(sequence_entropy)], "weight": 0.5}),
    ],
)
def test_weighted_supervision_of_the_demonstration_row(compose, key, options):
    given, batch, live = demonstration(compose)
    terms = [compose.term(negative_log_likelihood, **options)]
    gradient = given.get(f"{key}_dloss_dlogp")
    wanted = [gradient] if gradient else None
    compose.agrees(terms, batch, live, given[key], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "key, alpha", [("relift_sft_alpha1e3", 1e-3), ("relift_sft_alpha1e4", 1e-4)]
)
def test_relift_supervision_subtracts_an_entropy_bonus(compose, key, alpha):
    given, batch, live = demonstration(compose)
    terms = [
        compose.term(negative_log_likelihood, "sft"),
        compose.term(negative_entropy, "entropy", weight=alpha),
    ]
    compose.agrees(terms, batch, live, given[key], atol=1e-6)


def test_luffy_on_three_rollouts_and_the_demonstration(compose):
    tiny = compose.golden(TINY)
    given, demo = tiny["luffy"], tiny["demo_row"]
    lengths, shifts = (3, 2, 4, 3), (0.1, -0.3, 0.3)
    batch = compose.rows(
        [[1] * n + [0] * (4 - n) for n in lengths],
        prompts=["a"] * 4,
        origins=["policy"] * 3 + ["demonstration"],
        signals={"advantages": given["adv"]},
        columns={"old_logprobs": [[-1.0] * 4] * 4},
    )
    own = [[-1.0 + shift] * 4 for shift in shifts]
    live = {"logprobs": compose.leaf([*own, [*(math.log(p) for p in demo["p"]), 0.0]])}
    terms = [
        compose.term(ppo_clip, "on", where={"origin": "policy"}, average=4.0, **OFF),
        compose.term(shaped_likelihood, "off", where={"origin": "demonstration"}, average=4.0),
    ]
    values = compose.agrees(terms, batch, live, given["loss"], atol=1e-6)
    assert values["on"] == pytest.approx(given["sum_on"] / 4, abs=1e-6)
    assert values["off"] == pytest.approx(given["sum_off"] / 4, abs=1e-6)
    total = sum(compose.loss(terms, batch, live).values())
    slopes = torch.autograd.grad(total, live["logprobs"])[0][3, :3] * -4 / 0.5
    assert slopes.tolist() == pytest.approx(demo["luffy_df_dlogp"], abs=1e-6)


def test_rl_plus_on_the_demonstration_row(compose):
    """p_old = [0.7, 0.2, 0.5], advantage 0.5, divisor 4; the gradient is the loss of each token."""
    batch = compose.rows(
        [[1, 1, 1]],
        signals={"advantages": [0.5]},
        columns={"old_logprobs": torch.tensor([[0.7, 0.2, 0.5]]).double().log()},
    )
    live = {"logprobs": compose.leaf([[math.log(p) for p in (0.8, 0.1, 0.5)]])}
    terms = [compose.term(mixture_likelihood, times=[Bound(hardness)], average=4.0)]
    compose.agrees(terms, batch, live, -0.158062, atol=1e-6)
    value = compose.loss(terms, batch, live)["loss"]
    (gradient,) = torch.autograd.grad(value, live["logprobs"])
    assert float(gradient.sum()) == pytest.approx(float(value.detach()), abs=1e-12)


@pytest.mark.parametrize("key, coefficient", [("total_coef1", 1.0), ("total_coef03", 0.3)])
def test_hpt_on_a_solved_group_and_a_failed_prompt(compose, key, coefficient):
    given = compose.golden(TINY)["hpt"]
    _, own, live = own_rows(compose, "adv_no_std")
    pg = compose.loss([compose.term(ppo_clip, average=4.0, **OFF)], own, live)["loss"]
    _, demo, live = demonstration(compose)
    sft = compose.term(negative_log_likelihood, weight=coefficient)
    total = pg + compose.loss([sft], demo, live)["loss"]
    assert float(total.detach()) == pytest.approx(given[key], abs=1e-6)


@pytest.mark.parametrize(
    "key, mu, times", [("loss_phi", 0.1, [Bound(uncertainty)]), ("loss_mu09_plain", 0.9, [])]
)
def test_chord_is_a_convex_mix_of_the_two(compose, key, mu, times):
    given = compose.golden(TINY)["chord"]
    _, own, live = own_rows(compose, "adv_std_unbiased_eps1e6")
    grpo = compose.loss([compose.term(ppo_clip, weight=1 - mu, dual_clip=3.0)], own, live)["loss"]
    _, demo, live = demonstration(compose)
    term = compose.term(negative_log_likelihood, weight=mu, times=times)
    total = grpo + compose.loss([term], demo, live)["loss"]
    assert float(total.detach()) == pytest.approx(given[key], abs=1e-6)


def test_srft_pulls_up_what_was_right_and_pushes_down_what_was_wrong(compose):
    given = compose.golden(TINY)["srft_self"]
    _, batch, live = own_rows(compose, "rewards")
    live["entropy"] = torch.full((4, 4), given["H"], dtype=torch.float64)
    weigh = [Bound(sequence_entropy, {"sign": 1.0})]
    right, wrong = {"advantages": 1}, {"advantages": 0}  # the group's rewards, in this test
    terms = [
        compose.term(
            negative_log_likelihood, "right", weight=0.1, where=right, times=weigh, average=4.0
        ),
        compose.term(negative_log_likelihood, "wrong", weight=-1.0, where=wrong, average=4.0),
    ]
    compose.agrees(terms, batch, live, given["loss_paper_signs"], atol=1e-6)


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
