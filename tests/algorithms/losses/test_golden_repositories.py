"""Losses released by the authors of single methods, executed: value and gradient.

RLHFlow/Minimal-RL at e3b49f0 (RAFT, RAFT++), yangzhch6/DARS at 9b21b71, apple/ml-loop at 6ade7b9
and PRIME-RL/Entropy-Mechanism-of-RL at 8850579. The Kimi cases evaluate the paper's formula.
"""

import math

import torch

from didact.algorithms.policy_gradient import importance_weighted, ppo_clip, reinforce
from didact.algorithms.regularizers import kl_abs
from didact.algorithms.rules import Bound
from didact.algorithms.selection import clip_cov, top_covariance
from didact.algorithms.sequence_level import squared_consistency, trajectory_clip
from didact.algorithms.weights import stored


def entropy_mechanism(term, case):
    args, frozen = case["args"], {"logprobs": "frozen"}
    if case["case"] == "kl_cov":
        choice = Bound(top_covariance, {"share": args["k_percent"] / 100}, frozen)
        penalty = {"bind": {"ref_logprobs": "old_logprobs"}, "weight": args["ppo_kl_coef"]}
        return [term(importance_weighted), term(kl_abs, select=[choice], **penalty)]
    clip = {"clip_low": args["cliprange_low"], "clip_high": args["cliprange_high"]}
    ours = {"share": "clip_ratio", "cov_low": "clip_cov_lb", "cov_high": "clip_cov_ub"}
    choice = Bound(clip_cov, {**clip, **{n: args[t] for n, t in ours.items()}}, frozen)
    return [term(ppo_clip, select=[choice], log_ratio_limit=math.inf, **clip)]


def loop(term, case):
    _, level, clipped = case["case"].split("/")
    if clipped.endswith("False"):
        return [term(reinforce, average="sequences")]
    clip = case["args"]["ppo_epsilon"]
    loss = trajectory_clip if level == "pg_per_trajectory" else ppo_clip
    return [term(loss, average="sequences", clip_low=clip / (1 + clip), clip_high=clip)]


def terms(compose, case):
    name, args, term = case["case"], case["args"], compose.term
    if name.startswith("loop/"):
        return loop(term, case)
    match name:
        case "raft/vanilla_loss":
            return [term(reinforce)]
        case "raft++/loss":
            return [term(ppo_clip, dual_clip=args["clip_ratio_c"])]
        case "dars/policy_loss(sum over tokens / padded length)":
            return [term(ppo_clip, average=12)]
        case "kl_cov" | "clip_cov/all_candidates":
            return entropy_mechanism(term, case)
    raise AssertionError(f"no rule for {name}")


def test_loss_agrees_in_value_and_gradient(compose, repo_case):
    given, wanted = repo_case["inputs"], repo_case["outputs"]
    if "new_log_probs" in given:
        new, old = [given["new_log_probs"]], [given["old_log_probs"]]
        mask, advantages = [[1] * len(new[0])], [given["advantage"]]
        gradient = [wanted["grad_log_prob"]]
    else:
        new, old = given["log_prob"], given["old_log_prob"]
        mask, advantages = given.get("response_mask", given.get("eos_mask")), given["advantages"]
        gradient = wanted["grad_log_prob"]
    compose.agrees(
        terms(compose, repo_case),
        mask,
        {"logprobs": new},
        wanted["loss"],
        gradient,
        old_logprobs=old,
        advantages=advantages,
        frozen=new,
    )


def test_kimi_objective_agrees_with_the_papers_formula(compose, paper_case):
    """Not released output: the file says that its author evaluated the formula."""
    given, wanted = paper_case["inputs"], paper_case["outputs"]
    reward, group = (torch.tensor(given[name]).double() for name in ("reward", "group"))
    mean = torch.stack([reward[group == g].mean() for g in group])
    compose.agrees(
        [compose.term(squared_consistency, average="sequence_sum", tau=paper_case["args"]["tau"])],
        given["mask"],
        {"logprobs": given["log_prob"]},
        wanted["loss"],
        wanted["grad_log_prob"],
        old_logprobs=given["old_log_prob"],
        advantages=(reward - mean).tolist(),
    )


def test_pf_ppo_weighs_the_clipped_loss_of_a_response(compose):
    """swtheing/PF-PPO-RLHF at 6b93abf: responses of weight 0 still count in the mean."""
    file = compose.golden("update_rules/credit_and_shaping.json")
    cases = [case for case in file["cases"] if case["case"] == "pf_ppo/weighted_policy_loss"]
    assert len(cases) == 3
    for case in cases:
        bundle, given = file["bundles"][f"seed{case['seed']}"], case["inputs"]
        clip = {"clip_low": case["args"]["clip_eps"], "clip_high": case["args"]["clip_eps"]}
        weigh = Bound(stored, {}, {"number": "filter_weight"})
        compose.agrees(
            [compose.term(ppo_clip, times=[weigh], average="sequences", **clip)],
            bundle["mask"],
            {"logprobs": bundle["new"]},
            case["outputs"]["loss"],
            case["outputs"]["grad_log_prob"],
            old_logprobs=bundle["old"],
            advantages=bundle["adv_grpo"],
            filter_weight=given["policy_w"],
        )
