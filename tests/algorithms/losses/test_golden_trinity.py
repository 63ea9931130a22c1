"""The losses of Trinity-RFT 0.6.0, executed: the REC family, OPMD, sPPO, TOPR and the KL kinds.

Trinity adds 1e-8 to its denominators (relative error below 1e-9 here), and its
`seq-mean-token-sum-norm` does not divide by the number of sequences: a total.
"""

import math

from didact.algorithms.off_policy import opmd, sppo, topr
from didact.algorithms.policy_gradient import (
    cispo,
    importance_weighted,
    ppo_clip,
    reinforce,
    sapo_detached,
)
from didact.algorithms.regularizers import (
    corrected_kl,
    kl_abs,
    kl_k1,
    kl_k2,
    kl_k3,
    low_variance_kl,
    squared_log_ratio,
)
from didact.algorithms.rules import Bound
from didact.algorithms.sequence_level import gspo
from didact.algorithms.supervised import negative_log_likelihood
from didact.algorithms.trust import one_sided_trust, ring_trust, stale_negatives, two_sided_trust
from didact.algorithms.weights import exponential_advantage, importance

AVERAGES = {
    "token-mean": "tokens",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequences",
    "seq-mean-token-sum-norm": 12,
}
KINDS = {
    "k1": Bound(kl_k1),
    "k2": Bound(kl_k2),
    "k3": Bound(kl_k3),
    "low_var_kl": Bound(low_variance_kl),
    "abs": Bound(kl_abs),
    "corrected_k3": Bound(corrected_kl, {"cap": 2.0}),
}


def rec(term, args):
    """One loss; the family is its weights, its trust region and a second term."""
    band = {"low": args.get("epsilon_low", 0.2), "high": args.get("epsilon_high", 0.2)}
    ring = {
        "outer_low": args.get("epsilon_low_prime", 0.6),
        "outer_high": args.get("epsilon_high_prime", 2.0),
    }
    trust = {
        "none": [],
        "one-side": [Bound(one_sided_trust, band)],
        "two-side": [Bound(two_sided_trust, band)],
        "ring": [Bound(ring_trust, {**band, **ring})],
        "gspo-one-side": [Bound(one_sided_trust, {**band, "level": "geometric"})],
    }
    weight = {
        "none": [],
        "importance_sampling": [Bound(importance, {"log_ratio_limit": math.inf})],
        "gspo_importance_sampling": [Bound(importance, {"level": "geometric"})],
        "advantage": [Bound(exponential_advantage, {"temperature": args.get("temp", 1.0)})],
    }
    times = [*trust[args["clip_mode"]], *weight[args["weight"]]]
    how = "sequences" if args["clip_mode"] == "gspo-one-side" else "tokens"
    regularizer = {"k2": squared_log_ratio, "forward-kl": negative_log_likelihood}
    extra = [
        term(regularizer[name], weight=args["regularizer_coef"], average=how)
        for name in [args.get("regularizer")]
        if name
    ]
    return [term(reinforce, times=times, average=how), *extra]


def ppo(term, args):
    masks = args.get("enable_sequence_masking")
    times = [Bound(stale_negatives, {"threshold": args["delta_sequence_masking"]})] if masks else []
    live = {"old_logprobs": "logprobs"} if args.get("fallback_to_policy_gradient") else {}
    return [term(ppo_clip, times=times, bind=live, dual_clip=3.0)]


def terms(compose, case):
    args, term = case["args"], compose.term
    match case["case"].split("/")[0]:
        case "rec":
            return rec(term, args)
        case "opmd":
            return [term(opmd, tau=args["tau"], average=AVERAGES[args["loss_agg_mode"]])]
        case "sppo":
            return [term(sppo, epsilon=args["epsilon"])]
        case "topr":
            return [term(topr)]
        case "cispo":
            masks = {"mask_low": 0.2, "mask_high": 0.28} if args else {}
            return [term(cispo, **masks)]
        case "gspo":
            clip = {"clip_low": args["clip_range_low"], "clip_high": args["clip_range_high"]}
            return [term(gspo, average="sequences", **clip)]
        case "sapo(log-prob form)":
            return [term(sapo_detached)]
        case "ppo":
            return ppo(term, args)
        case "importance_sampling":
            return [term(importance_weighted)]
        case "kl":
            kind = KINDS[case["case"].split("/")[1]]
            return [term(kind.function, weight=args["kl_coef"], **kind.settings)]
        case "aggregate":
            how = AVERAGES[args["loss_agg_mode"]]
            return [term(reinforce, weight=-1.0, average=how, bind={"logprobs": "values"})]
    raise AssertionError(f"no rule for {case['case']}")


def test_policy_loss_agrees_in_value_and_gradient(compose, trinity_case):
    given, wanted = trinity_case["inputs"], trinity_case["outputs"]
    mask = given.get("action_mask", given.get("mask"))
    names = {
        "old_logprobs": "old_logprob",
        "advantages": "advantages",
        "ref_logprobs": "ref_logprob",
    }
    columns = {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
    if "values" in given:
        columns |= {"advantages": [1.0] * len(mask), "values": given["values"]}
        live = {"logprobs": given["values"]}
        value, _ = compose.run([term_of_values(compose, trinity_case)], mask, live, **columns)
        assert abs(float(value) - wanted["loss"]) < 1e-7
        return
    compose.agrees(
        terms(compose, trinity_case),
        mask,
        {"logprobs": given["logprob"]},
        wanted.get("loss", wanted.get("kl_loss_times_coef")),
        wanted["grad_logprob"],
        **columns,
    )


def term_of_values(compose, case):
    """`reinforce` of advantage -1 has the column itself as loss."""
    how = AVERAGES[case["args"]["loss_agg_mode"]]
    return compose.term(reinforce, weight=-1.0, average=how)
