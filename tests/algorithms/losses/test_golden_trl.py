"""GRPOTrainer._compute_loss of TRL 1.16.0, executed with one process: value and gradient."""

import math

import torch

from didact.algorithms.average import Constant
from didact.algorithms.policy_gradient import cispo, ppo_clip, sapo
from didact.algorithms.regularizers import corrected_kl, kl_k3, negative_entropy
from didact.algorithms.rules import Bound
from didact.algorithms.selection import entropy_quantile
from didact.algorithms.sequence_level import gspo, vespo, vespo_corrected
from didact.algorithms.trust import stale_negatives
from didact.algorithms.weights import truncated_is

CAP = 2.0


def average(args):
    match args["loss_type"]:
        case "grpo" | "sapo":
            return "sequences"
        case "dr_grpo":
            return Constant(per_sequence=args["max_completion_length"])
        case "luspo":
            return "sequence_sum"
    return "tokens"


def policy(args):
    """The loss and its settings; TRL clamps no log-ratio."""
    clip = {"clip_low": args["epsilon_low"], "clip_high": args["epsilon_high"]}
    free = {"log_ratio_limit": math.inf}
    if args["importance_sampling_level"] == "sequence":
        return gspo, {**clip, **free}
    match args["loss_type"]:
        case "cispo":
            return cispo, {"clip_low": 1.0, "clip_high": args["epsilon_high"] - 1, **free}
        case "sapo":
            return sapo, free
        case "vespo":
            return vespo, {}
    return ppo_clip, {**clip, **free, "ratio_cap": args["delta"]}


def terms(compose, case):
    args, given, how = case["args"], case["inputs"], average(case["args"])
    loss, settings = policy(args)
    times, select = [], []
    if loss is vespo and "importance_sampling_ratio" in given:
        loss, settings = vespo_corrected, {"cap": math.inf}
    elif "importance_sampling_ratio" in given:
        times.append(Bound(truncated_is, {"cap": CAP, "log_ratio_limit": math.inf}))
    if args["off_policy_mask_threshold"] is not None:
        bind = {"old_logprobs": "behavior_logprobs"} if "sampling_per_token_logps" in given else {}
        limit = {"threshold": args["off_policy_mask_threshold"]}
        times.append(Bound(stale_negatives, limit, bind))
    if args["top_entropy_quantile"] < 1:
        share = {"quantile": 1 - args["top_entropy_quantile"]}
        select.append(Bound(entropy_quantile, share, {"entropy": "old_entropy"}))
    out = [compose.term(loss, times=times, select=select, average=how, **settings)]
    if args["beta"]:
        level = args["importance_sampling_level"].replace("sequence", "geometric")
        corrected = args["use_bias_correction_kl"]
        kind = (corrected_kl, {"level": level}) if corrected else (kl_k3, {})
        out.append(compose.term(kind[0], weight=args["beta"], average=how, **kind[1]))
    if args["entropy_coef"]:
        bonus = {"bind": {"entropy": "old_entropy"}, "weight": args["entropy_coef"]}
        out.append(compose.term(negative_entropy, **bonus))
    return out


def test_loss_agrees_in_value_and_gradient(compose, trl_case):
    given, wanted = trl_case["inputs"], trl_case["outputs"]
    names = {
        "old_logprobs": "old_per_token_logps",
        "ref_logprobs": "ref_per_token_logps",
        "behavior_logprobs": "sampling_per_token_logps",
        "old_entropy": "entropies",
        "advantages": "advantages",
    }
    columns = {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
    if trl_case["case"] == "vespo/vllm_is":
        columns["behavior_logprobs"] = padded_mismatch(given)
    compose.agrees(
        terms(compose, trl_case),
        given["mask"],
        {"logprobs": given["per_token_logps"]},
        wanted["loss"],
        wanted["grad_logps"],
        **columns,
    )


def padded_mismatch(given):
    """TRL sums the log-weights of VESPO over padding too, here garbage; we over the mask only.

    A sampler whose mismatch over the mask is that sum stands in, so that the rest is compared.
    """
    weight, old, mask = (
        torch.tensor(given[name], dtype=torch.float64)
        for name in ("importance_sampling_ratio", "old_per_token_logps", "mask")
    )
    return old - (weight.log().sum(1) / mask.sum(1))[:, None]


def test_the_given_weight_is_ours(mismatch_case):
    given = mismatch_case["inputs"]
    old, sampler = (
        torch.tensor(given[name], dtype=torch.float64)
        for name in ("old_per_token_logps", "sampling_per_token_logps")
    )
    mask = torch.tensor(given["mask"]).bool()
    ours = truncated_is(old, sampler, mask, cap=CAP)[mask]
    released = torch.tensor(given["importance_sampling_ratio"], dtype=torch.float64)[mask]
    torch.testing.assert_close(ours, released, rtol=0, atol=1e-9)
