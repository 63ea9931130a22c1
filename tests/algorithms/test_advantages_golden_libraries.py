"""Advantages agree with what the released code of verl, Trinity and TRL computed."""

import math

import pytest
import torch
from released import SCALE, batch, close, golden, ids, t

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import token_advantages as tok

SCALAR = {
    "grpo": lambda r, g, m, a: adv.group_norm(
        r, g, scale=SCALE[a.get("norm_adv_by_std_in_grpo", True)]
    ),
    "grpo_passk": lambda r, g, m, a: adv.pass_at_k(
        r, g, scale=SCALE[a["config"]["norm_adv_by_std_in_grpo"]]
    ),
    "rloo": lambda r, g, m, a: adv.leave_one_out(r, g, singleton="raw"),
    "rloo_vectorized": lambda r, g, m, a: adv.leave_one_out(r, g, singleton="zero"),
    "opo": lambda r, g, m, a: adv.opo(r, g, m.sum(1)),
    "gpg": lambda r, g, m, a: adv.gpg(r, g, f_norm=a.get("f_norm", 1.0)),
}
SCALAR["grpo_vectorized"] = SCALAR["grpo"]
VERL = golden("update_rules/verl_advantages.json", *(f"{name}/" for name in SCALAR))


@pytest.mark.parametrize("case", VERL, ids=ids(VERL))
def test_group_advantages_agree_with_verl(case):
    name, args, inputs, outputs = case
    rewards, _, mask, groups = batch(inputs)
    family = name.split("/")[0]
    ours = SCALAR[family](rewards, groups, mask, args)
    # grpo_vectorized computes its statistics in float32
    close(ours[:, None] * mask, outputs["advantages"], 2e-6 if "vectorized" in family else 1e-7)


def wide(ours):
    return ours if isinstance(ours, dict) else {"advantages": ours}


TOKENWISE = {
    "gae": lambda r, i, m, g, a: tok.gae(r, m, t(i["values"]), **a),
    "reinforce_plus_plus": lambda r, i, m, g, a: tok.reinforce_plus_plus(
        r, m, gamma=a["config"]["gamma"]
    ),
    "reinforce_plus_plus_baseline": lambda r, i, m, g, a: tok.reinforce_plus_plus_baseline(
        r.sum(1), g, m
    ),
    "remax": lambda r, i, m, g, a: tok.remax_tokens(r, m, t(i["reward_baselines"])),
    "optimal_token_baseline": lambda r, i, m, g, a: tok.optimal_token_baseline(
        r, g, m, t(i["old_log_probs"]), t(i["sum_pi_squared"]), zero_tail=a["handle_zero_tail"]
    ),
    "tir_optimal_token_baseline": lambda r, i, m, g, a: tok.optimal_token_baseline(
        r,
        g,
        m,
        t(i["old_log_probs"]),
        t(i["sum_pi_squared"]),
        zero_tail=a["handle_zero_tail"],
        align="trained",
    ),
}
TOKENS = golden("update_rules/verl_advantages.json", *(f"{name}/" for name in TOKENWISE))


@pytest.mark.parametrize("case", TOKENS, ids=ids(TOKENS))
def test_token_advantages_and_returns_agree_with_verl(case):
    name, args, inputs, outputs = case
    _, tokens, mask, groups = batch(inputs)
    ours = wide(TOKENWISE[name.split("/")[0]](tokens, inputs, mask, groups, args))
    for key in ours:
        expected = t(outputs.get(key, outputs["advantages"]))
        close(ours[key], torch.where(mask, expected, 0.0))


def test_a_reward_of_the_response_stands_at_its_last_loss_token():
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    placed = tok.token_rewards(t([3.0, 5.0, 7.0]), mask)
    close(placed, [[0, 0, 0, 3, 0], [5, 0, 0, 0, 0], [0, 0, 0, 0, 0]], 0)


GDPO = golden("update_rules/verl_advantages.json", "gdpo/")


@pytest.mark.parametrize("case", GDPO, ids=ids(GDPO))
def test_gdpo_agrees_with_verl(case):
    name, args, inputs, outputs = case
    mask = t(inputs["response_mask"]).bool()
    groups = torch.tensor(inputs["index"])
    if name == "gdpo/two_rewards":
        parts = torch.stack([t(inputs[key]) for key in args["gdpo_reward_keys"]], 1)
        weights = t(args["gdpo_reward_weights"])
    else:
        parts, weights = t(inputs["token_level_rewards"]).sum(1, keepdim=True), t([1.0])
    scale = SCALE[args["norm_adv_by_std_in_grpo"]]
    # the released function works in float32
    close(tok.gdpo(parts, weights, groups, mask, scale=scale), outputs["advantages"], 2e-6)


TRINITY = golden(
    "update_rules/trinity_advantages.json", "rec", "opmd", "asymre", "grpo", "reinforce"
)


def trinity(name, args, rewards, groups, old):
    if name == "rec/RED-Drop":
        raise AssertionError("tested on its own")
    if name.startswith("rec"):
        return adv.group_norm(rewards, groups, scale=SCALE[args["std_normalize"]], ddof=0)
    if name == "opmd/mean":
        return adv.group_norm(rewards, groups, scale="none")
    if name == "opmd/logavgexp":
        return adv.opmd(rewards, groups, temperature=args["tau"])
    if name == "asymre":
        return adv.asym_re(rewards, groups, shift=args["baseline_shift"])
    if name == "reinforce":
        return adv.raw_reward(rewards)
    if name == "grpo/rank_penalty":
        everything = torch.ones_like(old, dtype=torch.bool)
        penalty = args["rank_penalty"]
        return variants.rank_penalised(rewards, groups, everything, old, penalty=penalty)
    scale = args.get("std_cal_level", "group")
    return adv.group_norm(rewards, groups, scale=scale, flat_below=args.get("std_threshold", 0.0))


@pytest.mark.parametrize("case", TRINITY, ids=ids(TRINITY))
def test_group_advantages_agree_with_trinity(case):
    name, args, inputs, outputs = case
    rewards, groups = t(inputs["reward"]), torch.tensor(inputs["group"])
    if name == "rec/RED-Drop":
        return check_drop(rewards, groups, outputs)
    ours = trinity(name, args, rewards, groups, t(inputs["logprobs"]))
    # rows that Trinity drops (nan) get 0 here; a keep stage drops them
    expected = [0.0 if x == "nan" else x for x in outputs["scalar_advantage"]]
    close(ours, expected, 2e-6)  # the package works in float32


def check_drop(rewards, groups, outputs):
    """Which failures Trinity dropped depends on its random numbers: take these from its result."""
    expected = t(outputs["scalar_advantage"])
    plain = adv.group_norm(rewards, groups, scale="none")
    draws = torch.where((expected == 0) & (plain != 0), 0.0, 0.5)
    ours = variants.red_drop(rewards, groups, draws)
    close(ours["advantages"], expected, 2e-6)
    for group, metrics in outputs["metrics"].items():
        dropped = 1 - ours["kept"][groups == int(group)].mean()
        assert dropped == pytest.approx(metrics["drop_balance"])


TRL = golden("update_rules/trl_grpo_losses.json", "advantages/")


@pytest.mark.parametrize("case", TRL, ids=ids(TRL))
def test_several_rewards_are_added_and_normalised_as_in_trl(case):
    name, args, inputs, outputs = case
    parts, weights = t(inputs["rewards_per_func"]), t(args["reward_weights"])
    groups = torch.arange(len(parts)) // args["num_generations"]
    if "normalize_then_sum" in name:
        mask = torch.ones(len(parts), 1, dtype=torch.bool)
        ours = tok.gdpo(parts, weights, groups, mask, whitened="responses", eps=1e-4)
    else:
        ours = adv.group_norm(parts @ weights, groups, scale=args["scale_rewards"], eps=1e-4)
    close(ours, outputs["advantages"])


def test_no_golden_case_holds_a_nan_that_we_would_miss():
    names = [name for name, _, _, outputs in TRINITY if "nan" in outputs["scalar_advantage"]]
    assert set(names) == {"grpo/std_threshold0(dynamic filter)"}
    assert not math.isnan(float(adv.group_norm(t([0.0]), torch.tensor([0]))))
