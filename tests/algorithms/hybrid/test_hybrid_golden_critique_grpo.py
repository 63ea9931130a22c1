"""Critique-GRPO's loss against the released code.

Figures: zhangxy-2019/critique-GRPO at e8f03a2, executed. Row 0 is the refinement.
"""

import math

import pytest
import torch

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.rules import Bound
from didact.algorithms.shaped import reshaped_ratio, shaped_likelihood, target_likelihood
from didact.algorithms.supervised import probability_cap

LOSS = "feedback/critique_grpo_loss.json"
WIDTH = 5.0


def reshape_of(name, given):
    """The released name of a shape, as our settings."""
    if name.startswith("p_div_p"):
        return {"gamma": float(name.rsplit("_", 1)[1])}
    if name == "no_reshape":
        return {"reshape": "none"}
    sort = "on" if "on_policy_reshape" in given else "off"
    settings = {"reshape": name, "power": given[f"{sort}_policy_reshape_pow_exp"]}
    if sort == "off":
        settings["log_weight"] = given["off_policy_reshape_weight"]
    return settings


def on_policy(compose, given, **options):
    if "on_policy_reshape" in given:
        settings = reshape_of(given["on_policy_reshape"], given)
        return compose.term(reshaped_ratio, "on", **options, **settings)
    if given.get("loss_remove_clip"):
        clip = {"clip_low": math.inf, "clip_high": math.inf}
    else:
        high = max(given["clip_upper_bound"], 1 + given["cliprange"]) - 1
        clip = {"clip_low": given["cliprange"], "clip_high": high}
    return compose.term(ppo_clip, "on", **options, **clip)


def off_policy(compose, given, **options):
    if "target_probs" in given:
        return compose.term(target_likelihood, "off", **options)
    settings = reshape_of(given["off_policy_reshape"], given)
    return compose.term(shaped_likelihood, "off", **options, **settings)


@pytest.mark.parametrize("at", range(17))
def test_mixed_loss_has_the_released_value_and_gradient(compose, at):
    data = compose.golden(LOSS)
    case = data["cases"][at]
    given, wanted = case["inputs"], case["outputs"]
    columns = {"old_logprobs": given["old_log_prob"], "off_policy": given["prefix_mask"]}
    if "target_probs" in given:
        columns["behavior_logprobs"] = torch.tensor(given["target_probs"]).double().log()
    batch = compose.rows(
        given["response_mask"],
        prompts=["a"] * 3,
        signals={"advantages": compose.first(given["advantages"])},
        columns=columns,
    )
    common = {"average": WIDTH} if given.get("loss_remove_token_mean") else {"batch_average": True}
    if "all_max_clip" in given:
        common["times"] = [Bound(probability_cap, {"at_most": given["all_max_clip"]})]
    terms = [
        on_policy(compose, given, tokens={"off_policy": 0}, **common),
        off_policy(compose, given, tokens={"off_policy": 1}, **common),
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    compose.agrees(terms, batch, live, wanted["pg_loss"], wanted["grad_log_prob"])
