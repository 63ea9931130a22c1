"""KL kinds, averages, importance weights and rejection masks of verl 0.9.1, executed.

Rejection in verl changes the mask, and so the denominator; here it is a weight of the same value.
"""

import math

import pytest
import torch

from didact.algorithms import regularizers as kl
from didact.algorithms.average import Constant
from didact.algorithms.policy_gradient import reinforce
from didact.algorithms.regularizers import negative_entropy
from didact.algorithms.selection import normalized_is
from didact.algorithms.weights import (
    geometric_truncated_is,
    icepop,
    rejection,
    truncated_is,
)

KINDS = {
    "kl": kl.kl_k1,
    "k1": kl.kl_k1,
    "abs": kl.kl_abs,
    "mse": kl.kl_k2,
    "k2": kl.kl_k2,
    "low_var_kl": kl.low_variance_kl,
    "k3": kl.low_variance_kl,
}
OVER = {"token": "token", "seq_sum": "sum", "seq_mean": "mean", "seq_max": "max"}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_kl_kind_agrees_in_value_and_gradient(kl_case):
    given, wanted = kl_case["inputs"], kl_case["outputs"]
    kind = kl_case["args"]["kl_penalty"]
    settings = {"straight_through": True} if kind.endswith("+") else {}
    new = tensor(given["logprob"]).requires_grad_(True)
    value = KINDS[kind.rstrip("+")](new, tensor(given["ref_logprob"]), **settings)
    torch.testing.assert_close(value.detach(), tensor(wanted["value"]), rtol=0, atol=1e-7)
    released = tensor(wanted["grad_of_masked_sum"])
    (gradient,) = torch.autograd.grad(value.sum(), new)
    inside = released != 0
    assert inside.any()
    torch.testing.assert_close(gradient[inside], released[inside], rtol=0, atol=1e-7)


def average(args):
    """The denominator of verl's mode; its global counts and ranks as one total."""
    ranks = args.get("dp_size")
    match args["loss_agg_mode"]:
        case "token-mean":
            return args["batch_num_tokens"] / ranks if ranks else "tokens"
        case "token-sum":
            return 1 / ranks if ranks else 1
        case "seq-mean-token-sum":
            return args["global_batch_size"] / ranks if ranks else "sequence_sum"
        case "seq-mean-token-sum-norm":
            rows = args["global_batch_size"] / ranks * args["loss_scale_factor"] if ranks else None
            return rows or Constant(per_sequence=12)
        case "seq-mean-token-mean":
            return "sequences"
    raise AssertionError(args)


def test_average_agrees_in_value_and_gradient(compose, average_case):
    """`reinforce` with advantage -1 has the given matrix as its loss."""
    given, args = average_case["inputs"], average_case["args"]
    rows = sum(1 for row in given["loss_mask"] if any(row))
    per_row = args["loss_agg_mode"] == "seq-mean-token-mean" and "dp_size" in args
    compose.agrees(
        [compose.term(reinforce, average=average(args))],
        given["loss_mask"],
        {"logprobs": given["loss_mat"]},
        average_case["outputs"]["loss"],
        average_case["outputs"]["grad"],
        times=rows * args["dp_size"] / args["global_batch_size"] if per_row else 1.0,
        advantages=[-1.0] * len(given["loss_mask"]),
    )


def test_entropy_agrees_in_value_and_gradient(entropy_case):
    given, wanted = entropy_case["inputs"], entropy_case["outputs"]
    logits = tensor(given["logits"]).requires_grad_(True)
    log_p = logits.log_softmax(-1)
    loss = negative_entropy(-(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(-loss.detach(), tensor(wanted["entropy"]), rtol=0, atol=1e-7)
    mask = tensor(given["response_mask"])
    mean = (-loss * mask).sum() / mask.sum()
    assert float(mean.detach()) == pytest.approx(wanted["entropy_loss"], abs=1e-7)
    (gradient,) = torch.autograd.grad(mean, logits)
    torch.testing.assert_close(gradient, tensor(wanted["grad_logits"]), rtol=0, atol=1e-7)


def limits(text):
    """ "low_high", or one upper limit."""
    parts = [float(part) for part in str(text).split("_")]
    return {"low": parts[0], "high": parts[1]} if len(parts) == 2 else {"high": parts[0]}


def weight(ratio, mask, level, threshold, normalize):
    """Of a policy whose log-ratio to the sampler is given."""
    zero, bounds = torch.zeros_like(ratio), limits(threshold)
    if normalize:
        low = {"low": bounds["low"], "zero_outside": True} if "low" in bounds else {}
        return normalized_is(ratio, zero, mask, cap=bounds["high"], level=level, **low)
    if "low" in bounds:
        return icepop(ratio, zero, mask, level=level, **bounds)
    return truncated_is(ratio, zero, mask, cap=bounds["high"], level=level)


def on_tokens(weight, mask):
    rows = weight[:, None] if weight.dim() == 1 else weight
    return torch.where(mask, rows.expand(mask.shape), 0.0)


def test_importance_weight_agrees(weight_case):
    given, args = weight_case["inputs"], weight_case["args"]
    mask = tensor(given["response_mask"]).bool()
    ours = weight(
        tensor(given["log_ratio"]),
        mask,
        args["rollout_is"],
        args["rollout_is_threshold"],
        args["rollout_is_batch_normalize"],
    )
    released = tensor(weight_case["outputs"]["weights"])
    torch.testing.assert_close(on_tokens(ours, mask), released, rtol=0, atol=1e-7)


def rejected(ratio, mask, options, thresholds):
    """verl's options are lists; each is one weight of ours, and together they multiply."""
    keep = torch.ones_like(ratio)
    zero = torch.zeros_like(ratio)
    for option, threshold in zip(options.split(","), str(thresholds).split(","), strict=True):
        over, kind = option.rsplit("_", 1)
        bounds = limits(threshold)
        if kind == "k1":  # sampler over trainer: the inverse ratio
            bounds = {"low": 1 / bounds["high"], "high": 1 / bounds["low"]}
        settings = {"statistic": kind.replace("k1", "ratio"), "over": OVER[over], **bounds}
        keep = keep * on_tokens(rejection(ratio, zero, mask, **settings), mask)
    return keep


def test_rejection_mask_agrees(rejection_case):
    given, args = rejection_case["inputs"], rejection_case["args"]
    mask = tensor(given["response_mask"]).bool()
    ours = rejected(
        tensor(given["log_ratio"]), mask, args["rollout_rs"], args["rollout_rs_threshold"]
    )
    assert torch.equal(ours, tensor(rejection_case["outputs"]["modified_response_mask"]))


def test_weights_and_masks_of_the_released_helper_agree(compose):
    """verl at 1dda039, in float32: 1e-6."""
    (case,) = compose.golden("replay_curriculum/verl_rollout_correction.json")["cases"]
    mask = tensor(case["mask"]).bool()
    ratio = (tensor(case["train_logp"]) - tensor(case["rollout_logp"])).float()
    for given in case["is_weights"]:
        ours = weight(ratio, mask, given["level"], given["threshold"], given["batch_normalize"])
        if "error" in given:
            assert float(on_tokens(ours, mask).abs().sum()) == 0.0
            continue
        released = tensor(given["weights"])
        torch.testing.assert_close(on_tokens(ours, mask), released.float(), rtol=0, atol=1e-6)
    for given in case["rejection"]:
        ours = rejected(ratio, mask, given["option"], given["threshold"])
        assert torch.equal(ours, tensor(given["mask"]).float()), given["option"]


def test_a_weight_far_outside_of_the_clamp_is_finite():
    ratio, mask = tensor([[-800.0, 800.0]]), torch.ones(1, 2, dtype=torch.bool)
    weights = truncated_is(ratio, torch.zeros_like(ratio), mask, cap=math.inf)
    assert torch.isfinite(weights).all()


def test_a_geometric_weight_truncates_tokens_first():
    """Ratios 4 and 1 with cap 2: sqrt(2 * 1). Truncating the mean sqrt(4 * 1) would give 2."""
    ratio, mask = tensor([[4.0, 1.0, 9.0]]).log(), torch.tensor([[True, True, False]])
    zero = torch.zeros_like(ratio)
    assert float(geometric_truncated_is(ratio, zero, mask)) == pytest.approx(2**0.5, abs=1e-12)
    later = truncated_is(ratio, zero, mask, level="geometric")
    assert float(later) == pytest.approx(2.0, abs=1e-12)
