"""CHORD and DFT against the released code.

Figures: trinity-rft 0.6.0 and yongliang-wu/DFT at e153181, executed.
"""

import math

import pytest
import torch

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.rules import Bound
from didact.algorithms.supervised import negative_log_likelihood, probability, uncertainty
from didact.core.schedule import Schedule

CHORD = "hybrid/chord_loss.json"
DFT = "hybrid/dft_loss.json"
VARIANTS = {
    "sft": {},
    "sft_is": {"times": [Bound(probability)]},
    "sft_phi": {"times": [Bound(uncertainty)]},
    "sft_phi_cutoff0.5": {"times": [Bound(uncertainty)], "cutoff": 0.5},
    "sft_seqmean": {"average": "sequences"},
    "sft_phi_seqmean": {"times": [Bound(uncertainty)], "average": "sequences"},
}


@pytest.mark.parametrize("at", range(6))
def test_supervised_variants_have_the_released_value_and_gradient(compose, at):
    data = compose.golden(CHORD)
    given, case = data["inputs"], data["sft_variants"][at]
    batch = compose.rows(given["mask"])
    live = {"logprobs": compose.leaf(given["log_prob"])}
    terms = [compose.term(negative_log_likelihood, "sft", **VARIANTS[case["fn"]])]
    compose.agrees(terms, batch, live, case["loss"], case["grad_wrt_logprob"])


def mu_schedules(warmup, decay, peak, valley):
    """mu as the sum of schedules: a straight rise, and half a cosine down from the peak."""
    if decay == 0:
        return [valley]
    fall = {"over": decay, "start": warmup}
    if warmup == 0:
        return [Schedule(cosine=(peak, valley), **fall)]
    return [
        Schedule(linear=(0.0, peak), over=warmup),
        Schedule(cosine=(0.0, valley - peak), **fall),
    ]


def value(schedule, step):
    return schedule(step) if isinstance(schedule, Schedule) else schedule


@pytest.mark.parametrize("at", range(4))
def test_mu_follows_the_released_schedule(compose, at):
    case = compose.golden(CHORD)["mu_schedule"][at]
    schedules = mu_schedules(*case["params"])
    for step, wanted in case["values"].items():
        got = sum(value(s, int(step)) for s in schedules)
        assert got == pytest.approx(wanted, abs=1e-12)


def complement(schedules):
    """1 - mu, a schedule for each of mu's."""
    if not isinstance(schedules[0], Schedule):
        return [1 - schedules[0]]
    out = []
    for at, one in enumerate(schedules):
        shape = "linear" if one.linear else "cosine"
        first, last = getattr(one, shape)
        base = 1.0 if at == 0 else 0.0
        out.append(Schedule(**{shape: (base - first, base - last)}, over=one.over, start=one.start))
    return out


@pytest.mark.parametrize("at", range(4))
def test_mixed_loss_has_the_released_value_and_gradient(compose, at):
    """The release weights both terms by their share of the micro-batch over their share of the
    batch; with the composition of the batch, as in all of these cases, that is 1."""
    data = compose.golden(CHORD)
    given, case = data["inputs"], data["cases"][at]
    config = case["config"]
    mu = mu_schedules(
        *(config[f"mu_{k}"] for k in ("warmup_steps", "decay_steps", "peak", "valley"))
    )
    batch = compose.rows(
        given["mask"],
        origins=["demonstration" if expert else "policy" for expert in given["expert_mask"]],
        signals={"advantages": given["advantages"]},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    phi = [Bound(uncertainty)] if config["enable_phi_function"] else []
    terms = [
        compose.term(
            ppo_clip,
            f"grpo {n}",
            weight=weight,
            where={"origin": "policy"},
            clip_low=config["clip_range"],
            clip_high=config["clip_range"],
            dual_clip=3.0,
        )
        for n, weight in enumerate(complement(mu))
    ] + [
        compose.term(
            negative_log_likelihood,
            f"sft {n}",
            weight=weight,
            where={"origin": "demonstration"},
            times=phi,
        )
        for n, weight in enumerate(mu)
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    step = case["step"]
    compose.agrees(terms, batch, live, case["loss"], case["grad_wrt_logprob"], step=step)
    assert sum(value(one, step) for one in mu) == pytest.approx(case["metrics"]["mu"], abs=1e-12)


def dft_live(compose, given, rows=slice(None)):
    """The released model is a bigram table; mask and log-probabilities shift by one token."""
    table = compose.leaf(given["W"])
    ids = torch.tensor(given["input_ids"])[rows]
    logprobs = table[ids[:, :-1]].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    mask = [row[:-1] for row in given["loss_mask"]][rows]
    return table, {"logprobs": logprobs}, compose.rows(mask)


def test_dft_has_the_released_value_and_gradient_at_the_weights(compose):
    data = compose.golden(DFT)
    table, live, batch = dft_live(compose, data["inputs"])
    weighted = [compose.term(negative_log_likelihood, times=[Bound(probability)])]
    loss = compose.loss(weighted, batch, live)["loss"]
    plain = compose.loss([compose.term(negative_log_likelihood)], batch, live)["loss"]
    assert float(loss.detach()) == pytest.approx(data["outputs"]["dft_loss"], abs=1e-7)
    assert float(loss.detach()) == pytest.approx(data["closed_form"]["dft_loss"], abs=1e-9)
    assert float(plain.detach()) == pytest.approx(data["outputs"]["plain_sft_loss"], abs=1e-7)
    (gradient,) = torch.autograd.grad(loss, table)
    wanted = torch.tensor(data["outputs"]["grad_W"], dtype=torch.float64)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-7)


def test_released_dft_adds_up_the_gradients_of_micro_batches_and_we_do_not(compose):
    """Each micro-batch alone, as a mini-batch of its own, has the released loss; their gradients
    are summed there (the release steps with twice the mean). We offer one denominator over the
    mini-batch only."""
    data = compose.golden(DFT)
    case = data["two_microbatches"]
    weighted = [compose.term(negative_log_likelihood, times=[Bound(probability)])]
    summed = torch.zeros(7, 7, dtype=torch.float64)
    for (start, *_), released in zip(case["rows"], case["losses"], strict=True):
        table, live, batch = dft_live(compose, data["inputs"], slice(start, start + 2))
        loss = compose.loss(weighted, batch, live)["loss"]
        assert float(loss.detach()) == pytest.approx(released, abs=1e-7)
        summed += torch.autograd.grad(loss, table)[0]
    assert float(summed.norm()) == pytest.approx(case["accumulated_grad_norm_sum"], abs=1e-7)
    assert float(summed.norm() / 2) == pytest.approx(case["mean_grad_norm"], abs=1e-7)
    table, live, batch = dft_live(compose, data["inputs"])
    ours = torch.autograd.grad(compose.loss(weighted, batch, live)["loss"], table)[0]
    assert math.isclose(float(ours.norm()), case["mean_grad_norm"], rel_tol=0.1)
