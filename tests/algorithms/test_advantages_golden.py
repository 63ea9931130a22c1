"""Advantages agree with what the released code of verl, Trinity and others computed."""

import json
import math
from pathlib import Path

import pytest
import torch

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import token_advantages as tok
from didact.algorithms.groups import group_mean

GOLDEN = Path(__file__).parents[1] / "golden"
SCALE = {True: "group", False: "none"}


def golden(path, *prefixes):
    """Cases whose name starts with a prefix, their references resolved."""
    content = json.loads((GOLDEN / path).read_text())

    def value(x):
        if isinstance(x, str) and x.startswith("$"):
            bundle, _, name = x[1:].rpartition(".")
            return content["bundles"][bundle][name] if bundle else content["shared"][name]
        return x

    cases = []
    for case in content["cases"]:
        if case["case"].startswith(prefixes):
            inputs, outputs = (
                {k: value(v) for k, v in case[part].items()} for part in ("inputs", "outputs")
            )
            cases.append((case["case"], case["args"], inputs, outputs))
    assert cases, f"no case of {path} starts with {prefixes}"
    return cases


def ids(cases):
    return [f"{at}-{case[0]}" for at, case in enumerate(cases)]


def t(x):
    return torch.tensor(x, dtype=torch.float64)


def close(actual, expected, atol=1e-7):
    expected = t(expected) if not isinstance(expected, torch.Tensor) else expected
    torch.testing.assert_close(actual.to(expected), expected, rtol=0, atol=atol)


def batch(inputs):
    tokens, mask = t(inputs["token_level_rewards"]), t(inputs["response_mask"]).bool()
    groups = torch.tensor(inputs["index"]) if "index" in inputs else None
    return tokens.sum(1), tokens, mask, groups


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


REPOS = golden(
    "update_rules/other_repos_advantages.json",
    "raft/adv",
    "reinforce_rej",
    "reinforce_ada/global",
    "gream",
    "loop",
)


@pytest.mark.parametrize("case", REPOS, ids=ids(REPOS))
def test_advantages_agree_with_the_methods_own_repositories(case):
    name, args, inputs, outputs = case
    if name == "gream/passk_bonus":
        solved = t(inputs["scores"]) == 1.0
        none = torch.zeros(len(solved), dtype=torch.long)
        return close(variants.pass_bonus(solved, none, k=args["k"]), outputs["bonus"])
    if name == "loop/advantage":
        return close(loop(args, inputs["returns"]), outputs["advantages"])
    rewards, _, mask, groups = batch(inputs)
    if name == "raft/advantage":
        ours = adv.positive_reward(rewards)
    elif name == "reinforce_rej/advantage":
        ours = adv.mixed_reward(rewards, groups)
    elif name == "gream/bonus_calibrated_advantage":
        scale = SCALE[args["norm_adv_by_std_in_grpo"]]
        ours = variants.gream(rewards, groups, k=args["K"], scale=scale)
    else:
        counts = [t([inputs[n][str(int(g))] for g in groups]) for n in ("pos_count", "neg_count")]
        scale = SCALE[args["norm_adv_by_std_in_grpo"]]
        ours = variants.counted_norm(rewards, *counts, scale=scale)
    close(ours[:, None] * mask, outputs["advantages"], 1e-6 if "ada" in name else 1e-7)


NFT = golden("update_rules/nft_official.json", "nft/advantage")


@pytest.mark.parametrize("case", NFT, ids=ids(NFT))
def test_nft_reads_the_success_rate_of_the_group(case):
    """Its baseline's advantages are GRPO's; c and p are what `score` writes of the +-1 rewards."""
    _, args, inputs, outputs = case
    rewards, _, mask, groups = batch(inputs)
    ours = adv.group_norm(rewards, groups, eps=args["epsilon"])
    close(ours[:, None] * mask, outputs["advantages"])
    rate = group_mean((rewards > 0).double(), groups)
    close(rate[:, None].expand_as(mask), outputs["correct_rate"])


ROVER = golden("update_rules/rover_official.json", "rover/low", "rover/math")


@pytest.mark.parametrize("case", ROVER, ids=ids(ROVER))
def test_rover_rewards(case):
    name, args, inputs, outputs = case
    rewards, mask = t(inputs["token_level_rewards"]).sum(1), t(inputs["eos_mask"])
    if name.startswith("rover/math"):
        ours = adv.balanced_reward(rewards)
    else:
        groups = torch.tensor(inputs["index"])
        ours = adv.group_norm(rewards, groups, scale=SCALE[args["norm_adv_by_std_in_grpo"]])
    close(ours[:, None] * mask, outputs["scores"], 2e-6)  # statistics in float32


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


def loop(args, returns):
    rewards = t([r for scenario in returns for r in scenario])
    sizes = torch.tensor([len(scenario) for scenario in returns])
    groups = torch.arange(len(returns)).repeat_interleave(sizes)
    scale = SCALE[args["adv_normalization"]]
    settings = {"scale": scale, "ddof": 0, "eps": 1e-7, "guard": "floor"}
    if args["baseline"] == "leave_one_out":
        return adv.leave_one_out(rewards, groups, **settings)
    return adv.group_norm(rewards, groups, **settings)


def content(path):
    return json.loads((GOLDEN / path).read_text())


def test_loop_drops_what_is_below_its_threshold():
    for case in content("replay_curriculum/loop.json")["cases"]:
        plain = loop({"baseline": "leave_one_out", "adv_normalization": False}, case["returns"])
        close(plain, case["loo_adv"])
        scaled = loop({"baseline": "leave_one_out", "adv_normalization": True}, case["returns"])
        close(scaled, case["loo_adv_normalised"], 1e-6)
        groups = torch.arange(len(case["returns"])).repeat_interleave(len(case["returns"][0]))
        cut = adv.leave_one_out(
            t(case["returns"]).flatten(), groups, zero_below=case["filter"]["threshold"]
        )
        assert cut.nonzero()[:, 0].tolist() == case["filter"]["kept"]


def test_rlpr_gives_flat_groups_nothing():
    for case in content("feedback/rlpr_advantage.json")["cases"]:
        scores, names = case["inputs"]["scores"], case["inputs"]["index"]
        groups = torch.tensor([sorted(set(names)).index(n) for n in names])
        close(
            adv.group_norm(t(scores), groups, flat_below=1e-6), case["outputs"]["advantages"], 2e-6
        )


def test_critique_grpo_uses_the_same_group_advantage():
    for case in content("feedback/critique_grpo_advantage.json")["cases"]:
        inputs = case["inputs"]
        groups = torch.tensor([sorted(set(inputs["index"])).index(n) for n in inputs["index"]])
        ours = adv.group_norm(
            t(inputs["scores"]), groups, scale=SCALE[inputs["norm_adv_by_std_in_grpo"]]
        )
        close(ours[:, None] * t(inputs["response_mask"]), case["outputs"]["advantages"], 2e-6)


def test_pipelinerl_divides_leave_one_out_by_the_sample_std():
    for case in content("replay_curriculum/pipelinerl_advantages.json")["cases"]:
        rewards = t([row["reward"] for row in case["rows"]])
        groups = torch.tensor([ord(row["group"]) - ord("g") for row in case["rows"]])
        ours = adv.leave_one_out(rewards, groups, scale=SCALE[case["divide_by_std"]], eps=1e-4)
        close(ours, [row["adv"] for row in case["rows"]], 2e-6)


def test_relift_group_advantages_with_and_without_std():
    cases = content("hybrid/relift_rl_loss.json")["advantage_group_cases"]
    rewards = t(cases["scores"]).flatten()
    groups = torch.arange(len(cases["scores"])).repeat_interleave(len(cases["scores"][0]))
    close(adv.group_norm(rewards, groups, scale="none"), t(cases["no_std"]).flatten())
    close(adv.group_norm(rewards, groups), t(cases["std_eps1e6_unbiased"]).flatten(), 2e-6)
    alone = adv.group_norm(t([1.0]), torch.tensor([0]))
    close(alone, [cases["single_member_group_score1"]], 2e-6)


def test_luffy_mixed_and_split_baselines():
    file = content("hybrid/luffy_mixed_loss.json")
    mask = t(file["inputs"]["mask"])
    rewards = t(file["inputs"]["token_level_rewards"]).sum(1)
    on_policy = 1 - t(file["inputs"]["prefix_mask"]).amax(1)
    groups = torch.zeros(len(rewards), dtype=torch.long)
    for name, scale in (("no_std", "none"), ("std", "group")):
        mixed = adv.group_norm(rewards, groups, scale=scale)
        close(mixed[:, None] * mask, file["advantages"][f"mixed_{name}"], 2e-6)
        split = adv.split_norm(rewards, groups, on_policy, scale=scale)
        close(split[:, None] * mask, file["advantages"][f"split_{name}"], 2e-6)


def test_prefix_rft_credits_prefix_and_continuation_apart():
    file = content("hybrid/prefix_rft_loss.json")
    inputs, expected = file["inputs"], file["advantages"]
    mask, prefix = t(inputs["mask"]).bool(), t(inputs["prefix_mask"])
    rewards = t(inputs["token_level_rewards"]).sum(1)
    groups = torch.zeros(len(rewards), dtype=torch.long)
    kinds = sorted(set(inputs["prefix_index"]))
    which = t([kinds.index(p) for p in inputs["prefix_index"]])
    first = tok.prefix_group_norm(rewards, groups, mask, prefix, which)
    close(first, expected["dr_grpo_prefix"])
    second = tok.prefix_group_norm(rewards, groups, mask, prefix, which, singleton="zero")
    close(second, expected["dr_grpo_prefix_v2"])
    plain = adv.group_norm(rewards, groups, scale="none")
    close(plain[:, None] * mask, expected["dr_grpo_all_rows"])
    close(adv.group_norm(rewards, groups)[:, None] * mask, expected["grpo_all_rows"], 2e-6)


def test_gae_passes_over_observations_as_meow_tea_taro():
    for case in content("replay_curriculum/multiturn_gae.json")["cases"]:
        mask = t(case["mask"]).bool()
        for result in case["results"]:
            settings = {"gamma": result["gamma"], "lam": result["lam"]}
            ours = tok.gae(t(case["rewards"]), mask, t(case["values"]), **settings)
            expected = torch.where(mask, t(result["advantages_whitened"]), 0.0)
            close(ours["advantages"], expected, 2e-6)  # float32 inputs
            close(ours["returns"], torch.where(mask, t(result["returns"]), 0.0), 2e-6)


def test_no_golden_case_holds_a_nan_that_we_would_miss():
    names = [name for name, _, _, outputs in TRINITY if "nan" in outputs["scalar_advantage"]]
    assert set(names) == {"grpo/std_threshold0(dynamic filter)"}
    assert not math.isnan(float(adv.group_norm(t([0.0]), torch.tensor([0]))))
