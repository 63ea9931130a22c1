"""Losses of the hybrid methods over small worked examples: formulas, nobody's released output."""

import math

import pytest
import torch

from didact.algorithms.entropy_weighted import sequence_entropy
from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.regularizers import negative_entropy
from didact.algorithms.rules import Bound
from didact.algorithms.shaped import mixture_likelihood, shaped_likelihood
from didact.algorithms.supervised import hardness, negative_log_likelihood, probability, uncertainty

TINY = "hybrid/tiny_examples.json"
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
