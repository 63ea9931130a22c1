"""ROVER's update block (tinnerhrhe/ROVER at b0fa587, executed verbatim) and verl's value loss."""

import pytest
import torch

from didact.algorithms.value_learning import clipped_value, rover, rover_response
from didact.core.backends.forward import readout

AVERAGES = {"token-mean": "tokens", "seq-mean-token-mean": "sequences"}


def test_rover_agrees_in_value_and_gradient(compose, rover_case):
    given, args, wanted = rover_case["inputs"], rover_case["args"], rover_case["outputs"]
    tokens = torch.tensor(given["tokens"])[..., None]
    log_softmax = {
        name: torch.tensor(given[f"logits_{name}"], dtype=torch.float64).log_softmax(-1)
        for name in ("new", "old")
    }
    taken = {name: p.gather(-1, tokens)[..., 0] for name, p in log_softmax.items()}
    settings = {
        "bootstrap": 0.0 if args.get("target_adv_only") else args.get("next_q_scale_factor", 1.0),
        "clip": args.get("clip_ratio") if args.get("use_rover_clip") else None,
        "temperature": args["rover_t"],
    }
    term = compose.term(rover, **settings)
    if args.get("response_level_rover_loss"):
        term = compose.term(rover_response, average="sequences", temperature=args["rover_t"])
    compose.agrees(
        [term],
        given["response_mask"],
        {"logprobs": taken["new"], "mean_logprobs": log_softmax["new"].mean(-1)},
        wanted["loss"],
        wanted["grad_log_prob_of_taken"],
        old_logprobs=taken["old"],
        old_mean_logprobs=log_softmax["old"].mean(-1),
        advantages=given["advantages"],
    )


def test_rover_has_the_released_gradient_at_the_logits(compose):
    """The next state's value is a target: the logits get a gradient by the taken token alone."""
    file = compose.golden("update_rules/rover_official.json")
    cases = [case for case in file["cases"] if "grad_logits_new" in case["outputs"]]
    assert cases
    for case in cases:
        given = {
            name: file["shared"][value[1:]] if isinstance(value, str) else value
            for name, value in {**case["inputs"], **case["outputs"]}.items()
        }
        tokens, mask = torch.tensor(given["tokens"]), torch.tensor(given["response_mask"]).bool()
        new, old = (
            torch.tensor(given[f"logits_{name}"], dtype=torch.float64) for name in ("new", "old")
        )
        new.requires_grad_(True)
        log_p, log_old = new.log_softmax(-1), old.log_softmax(-1)
        taken, before = (x.gather(-1, tokens[..., None])[..., 0] for x in (log_p, log_old))
        gain = torch.tensor(given["advantages"], dtype=torch.float64)
        loss = rover(taken, before, log_p.mean(-1), log_old.mean(-1), gain, mask)
        mean = torch.where(mask, loss, 0.0).sum() / mask.sum()
        (gradient,) = torch.autograd.grad(mean, new)
        wanted = torch.tensor(given["grad_logits_new"], dtype=torch.float64)
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-7)


def test_value_loss_agrees_in_value_and_gradient(compose, value_case):
    given, args, wanted = value_case["inputs"], value_case["args"], value_case["outputs"]
    how = AVERAGES[args["loss_agg_mode"]]
    value, gradient = compose.run(
        [compose.term(clipped_value, clip=args["cliprange_value"], average=how)],
        given["response_mask"],
        {"logprobs": given["vpreds"], "values": given["vpreds"]},
        leaf="values",
        old_values=given["values"],
        returns=given["returns"],
    )
    assert float(value) == pytest.approx(wanted["vf_loss"], abs=1e-7, rel=0)
    expected = torch.tensor(wanted["grad_vpreds"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


def test_the_readout_of_rover_is_the_mean_log_probability(compose):
    """`mean_logprobs` as a learner reads it out; the release works in float32."""
    file = compose.golden("update_rules/rover_official.json")
    cases = [case for case in file["cases"] if case["case"] == "rover/mean_log_softmax"]
    assert cases
    for case in cases:
        logits, wanted = (
            torch.tensor(file["shared"][name[1:]] if isinstance(name, str) else name)
            for name in (case["inputs"]["logits"], case["outputs"]["value"])
        )
        flat = logits.double().flatten(0, -2)
        targets = torch.zeros(len(flat), dtype=torch.int64)
        ours = readout("mean_logprobs", flat, flat.logsumexp(-1), targets)
        torch.testing.assert_close(ours, wanted.double().flatten(), rtol=0, atol=2e-6)
