"""The policy losses of verl 0.9.1, executed: value and gradient, in float64."""

import math

from didact.algorithms.average import Constant
from didact.algorithms.policy_gradient import (
    cispo,
    dro,
    importance_weighted,
    ppo_clip,
    reinforce,
    sapo,
)
from didact.algorithms.regularizers import kl_abs
from didact.algorithms.rules import Bound
from didact.algorithms.selection import clip_cov, top_covariance
from didact.algorithms.sequence_level import gmpo, gspo
from didact.algorithms.trust import binary_kl_trust, total_variation_trust
from didact.algorithms.weights import geometric_truncated_is, truncated_is

AVERAGES = {
    "token-mean": "tokens",
    "token-sum": 1,
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequences",
    "seq-mean-token-sum-norm": Constant(per_sequence=12),
}


def average(args):
    """verl multiplies by its data-parallel size, because the engine averages over ranks."""
    info, mode = args.get("global_batch_info"), args["loss_agg_mode"]
    if info and mode == "token-mean":
        return info["batch_num_tokens"] / info["dp_size"]
    if info and mode == "seq-mean-token-sum-norm":
        return info["global_batch_size"] * info["loss_scale_factor"] / info["dp_size"]
    return AVERAGES[mode]


def bounds(args):
    return {
        "clip_low": args.get("clip_ratio_low", 0.2),
        "clip_high": args.get("clip_ratio_high", 0.28),
    }


def kl_cov(term, args, times, how):
    choice = Bound(top_covariance, {"share": args["kl_cov_ratio"]}, {"logprobs": "frozen"})
    penalty = {"bind": {"ref_logprobs": "old_logprobs"}, "weight": args["ppo_kl_coef"]}
    return [
        term(importance_weighted, times=times, average=how),
        term(kl_abs, times=times, select=[choice], average=how, **penalty),
    ]


def clipped_by_covariance(term, args, times, how):
    ours = {"share": "clip_cov_ratio", "cov_low": "clip_cov_lb", "cov_high": "clip_cov_ub"}
    settings = {name: args[theirs] for name, theirs in ours.items()}
    choice = Bound(clip_cov, {**settings, **bounds(args), "seed": 7}, {"logprobs": "frozen"})
    limits = {"log_ratio_limit": math.inf, **bounds(args)}
    return [term(ppo_clip, select=[choice], times=times, average=how, **limits)]


def bypass(term, args, times, how):
    """The sampler's policy is the old one; `reinforce` weighs by the live ratio to it."""
    if args["loss_type"] == "ppo_clip":
        return [term(ppo_clip, average=how, clip_high=0.28, dual_clip=3.0)]
    live = {"old_logprobs": "logprobs", "behavior_logprobs": "old_logprobs"}
    weight = {"cap": args["rollout_is_threshold"], "level": args["rollout_is"]}
    times = [Bound(truncated_is, weight, live)] if args["rollout_is"] else []
    return [term(reinforce, average=how, times=times)]


def terms(compose, case, times):
    args, name = case["args"], case["case"].split("/")[0]
    term, how = compose.term, average(args)
    dppo = {"low": args.get("clip_ratio_low", 0.15), "high": args.get("clip_ratio_high", 0.15)}
    match name:
        case "vanilla":
            return [term(ppo_clip, times=times, average=how, dual_clip=3.0, **bounds(args))]
        case "dppo_tv" | "dppo_kl":
            trust = total_variation_trust if name == "dppo_tv" else binary_kl_trust
            times = [Bound(trust, dppo), *times]
            return [term(cispo, times=times, average=how, clip_high=args["clip_ratio_c"] - 1)]
        case "gspo":
            return [term(gspo, times=times, average=how, **bounds(args))]
        case "sapo":
            taus = {"temperature_positive": 1.0, "temperature_negative": 1.05}
            return [term(sapo, times=times, average="sequences", **taus)]
        case "gpg":
            return [term(reinforce, times=times, average=how)]
        case "clip_cov":
            return clipped_by_covariance(term, args, times, how)
        case "kl_cov":
            return kl_cov(term, args, times, how)
        case "geo_mean":
            return [term(gmpo, times=times, average="sequences", **bounds(args))]
        case "dro":
            return [term(dro, times=times, average=how, beta=args["dro_beta"])]
        case "cispo":
            return [term(cispo, times=times, average=how, **bounds(args))]
        case "bypass_mode":
            return bypass(term, args, times, how)
    raise AssertionError(f"no rule for {case['case']}")


def test_policy_loss_agrees_in_value_and_gradient(compose, verl_case):
    given, wanted = verl_case["inputs"], verl_case["outputs"]
    columns = {"old_logprobs": given.get("old_log_prob", given.get("rollout_log_prob"))}
    times = []
    if "rollout_is_weights" in given:
        # The released weight is min(exp(old - rollout), 2): any sampler with that ratio will do.
        columns["behavior_logprobs"] = sampler(given)
        of_row = "geo_mean" in verl_case["case"]
        times = [Bound(geometric_truncated_is if of_row else truncated_is, {"cap": 2.0})]
    compose.agrees(
        terms(compose, verl_case, times),
        given["response_mask"],
        {"logprobs": given["log_prob"]},
        wanted["loss"],
        wanted["grad_log_prob"],
        advantages=given["advantages"],
        frozen=given["log_prob"],
        **columns,
    )


def sampler(given):
    return [
        [old - (math.log(w) if w > 0 else 0.0) for old, w in zip(*rows, strict=True)]
        for rows in zip(given["old_log_prob"], given["rollout_is_weights"], strict=True)
    ]
