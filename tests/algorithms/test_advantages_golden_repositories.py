"""Advantages agree with what the repositories of single methods computed."""

import pytest
import torch
from released import SCALE, batch, close, content, golden, ids, t

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import token_advantages as tok
from didact.algorithms.groups import group_mean

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


def loop(args, returns):
    rewards = t([r for scenario in returns for r in scenario])
    sizes = torch.tensor([len(scenario) for scenario in returns])
    groups = torch.arange(len(returns)).repeat_interleave(sizes)
    scale = SCALE[args["adv_normalization"]]
    settings = {"scale": scale, "ddof": 0, "eps": 1e-7, "guard": "floor"}
    if args["baseline"] == "leave_one_out":
        return adv.leave_one_out(rewards, groups, **settings)
    return adv.group_norm(rewards, groups, **settings)


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
