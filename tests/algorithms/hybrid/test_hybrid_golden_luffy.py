"""LUFFY, its baseline with a supervised loss, and RL-PLUS against the released code.

Figures: ElliottYan/LUFFY at 01f4ae0 and YihongDong/RL-PLUS at eb4aa4d, executed.
"""

import math

import pytest

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.rules import Bound
from didact.algorithms.shaped import mixture_likelihood, shaped_likelihood
from didact.algorithms.supervised import hardness, negative_log_likelihood

MIXED = "hybrid/luffy_mixed_loss.json"
MULTI = "hybrid/luffy_rl_with_sft_loss.json"
PLUS = "hybrid/rl_plus_loss.json"
OFF = {"clip_low": math.inf, "clip_high": math.inf}
ORIGINS = ["policy", "policy", "policy", "demonstration"]
RESHAPES = {
    "p_div_p_0.1": {"gamma": 0.1},
    "p_div_p_0.3": {"gamma": 0.3},
    "p_div_p_0.5": {"gamma": 0.5},
    "pow": {"reshape": "pow"},
}


def divisor(config):
    """The fixed divisor of the release, or its token mean over the tokens of both kinds."""
    if config["loss_remove_token_mean"]:
        return {"average": 12.0}
    return {"average": "tokens", "batch_average": True}


def clipping(config):
    return OFF if config["loss_remove_clip"] else {}


@pytest.mark.parametrize("at", range(7))
def test_mixed_loss_has_the_released_value_and_gradient(compose, at):
    """Demonstration tokens are chosen by a column, so that a partial prefix is the same rule."""
    data = compose.golden(MIXED)
    given, case = data["inputs"], data["cases"][at]
    config = case["config"]
    whole = config["prefix_mask"] == "row3_full"
    off_policy = given["prefix_mask" if whole else "partial_prefix_mask"]
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        origins=ORIGINS,
        signals={"advantages": compose.first(data["advantages"][config["advantages"]])},
        columns={"old_logprobs": given["old_log_prob"], "prefix": off_policy},
    )
    bounds = {"ceiling": config.get("off_max_clip"), "floor": config.get("off_min_clip")}
    shape = RESHAPES[config["off_policy_reshape"]]
    terms = [
        compose.term(ppo_clip, "on", tokens={"prefix": 0}, **divisor(config), **clipping(config)),
        compose.term(
            shaped_likelihood, "off", tokens={"prefix": 1}, **divisor(config), **shape, **bounds
        ),
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    tolerance = 1e-7 if config["advantages"].endswith("no_std") else 2e-6
    compose.agrees(
        terms, batch, live, case["outputs"]["pg_loss"], case["grad_wrt_log_prob"], atol=tolerance
    )


def test_choosing_by_origin_is_choosing_by_column_when_the_whole_row_is_a_demonstration(compose):
    """The recipe's form of the shipped configuration."""
    data = compose.golden(MIXED)
    given, case = data["inputs"], data["cases"][0]
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        origins=ORIGINS,
        signals={"advantages": compose.first(data["advantages"]["mixed_no_std"])},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    terms = [
        compose.term(ppo_clip, "on", where={"origin": "policy"}, average=12.0, **OFF),
        compose.term(shaped_likelihood, "off", where={"origin": "demonstration"}, average=12.0),
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    compose.agrees(terms, batch, live, case["outputs"]["pg_loss"], case["grad_wrt_log_prob"])


@pytest.mark.parametrize("at", range(3))
def test_rl_with_a_supervised_loss_has_the_released_value_and_gradient(compose, at):
    data = compose.golden(MULTI)
    given, case = data["inputs"], data["cases"][at]
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        origins=ORIGINS,
        signals={"advantages": compose.first(given["advantages"])},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    terms = [
        compose.term(ppo_clip, "pg", where={"origin": "policy"}, average=12.0, **clipping(case)),
        compose.term(
            negative_log_likelihood,
            "sft",
            weight=case["sft_loss_coef"],
            where={"origin": "demonstration"},
        ),
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    values = compose.agrees(terms, batch, live, case["total"], case["grad_wrt_log_prob"])
    assert values["pg"] == pytest.approx(case["pg_loss"], abs=1e-7)
    assert values["sft"] == pytest.approx(case["sft_loss_coef"] * case["sft_loss"], abs=1e-7)


@pytest.mark.parametrize("at", range(2))
def test_rl_plus_has_the_released_value_and_gradient(compose, at):
    data = compose.golden(PLUS)
    given, case = data["inputs"], data["cases"][at]
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        origins=ORIGINS,
        signals={"advantages": compose.first(data["advantages"])},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    loss, options = {
        "RL-PLUS": (mixture_likelihood, {"times": [Bound(hardness)]}),
        "no_reshape": (shaped_likelihood, {"reshape": "none"}),
    }[case["config"]["off_policy_strategy"]]
    terms = [
        compose.term(ppo_clip, "on", where={"origin": "policy"}, average=12.0, **OFF),
        compose.term(
            loss,
            "off",
            where={"origin": "demonstration"},
            average=12.0,
            **options,
        ),
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    compose.agrees(terms, batch, live, case["outputs"]["pg_loss"], case["grad_wrt_log_prob"])
