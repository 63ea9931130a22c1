"""Shaped likelihoods and reshaped ratios: identities and edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.shaped import (
    mixture_likelihood,
    reshaped_ratio,
    shaped_likelihood,
    target_likelihood,
)

logprob = st.floats(-12.0, -1e-3)
advantage = st.integers(-200, 200).map(lambda n: n / 100)
RESHAPES = ["p_div_p", "none", "logp", "p_logp", "square_root", "pow"]


def one(value, grad=False):
    return torch.tensor([[value]], dtype=torch.float64, requires_grad=grad)


@given(st.floats(0.01, 1.0))
def test_shaping_is_one_half_at_gamma_and_steepest_there(gamma):
    lp = torch.tensor([[math.log(gamma) + d for d in (-0.5, 0.0, 0.5)]], dtype=torch.float64)
    lp.requires_grad_()
    loss = shaped_likelihood(lp, torch.ones(1), gamma=gamma)
    assert float(loss.detach()[0, 1]) == pytest.approx(-0.5, abs=1e-12)
    before, at, after = torch.autograd.grad(loss.sum(), lp)[0][0].tolist()
    assert at == pytest.approx(-0.25, abs=1e-12)
    assert at < before and at < after


@given(logprob, advantage, st.floats(0.02, 1.0))
def test_the_gradient_is_the_advantage_times_gamma_p_over_p_plus_gamma_squared(value, gain, gamma):
    lp, p = one(value, grad=True), math.exp(value)
    loss = shaped_likelihood(lp, torch.tensor([gain], dtype=torch.float64), gamma=gamma)
    (gradient,) = torch.autograd.grad(loss, lp)
    assert float(gradient) == pytest.approx(-gain * gamma * p / (p + gamma) ** 2, abs=1e-12)


@pytest.mark.parametrize(
    "reshape, settings, expected",
    [
        ("p_div_p", {"gamma": 0.3}, 0.25 / 0.55),
        ("none", {}, 0.25),
        ("logp", {"log_weight": 0.5}, 0.5 * math.log(0.25)),
        ("p_logp", {"log_weight": 0.5}, 0.25 + 0.5 * math.log(0.25)),
        ("square_root", {}, 0.5),
        ("pow", {"power": 2.0}, 0.0625),
    ],
)
def test_each_shape_of_a_quarter_is_what_its_formula_says(reshape, settings, expected):
    lp = one(math.log(0.25))
    loss = shaped_likelihood(lp, torch.ones(1), reshape=reshape, **settings)
    assert float(loss) == pytest.approx(-expected, abs=1e-12)


@pytest.mark.parametrize("reshape", RESHAPES)
@given(value=logprob, gain=advantage)
def test_a_zero_advantage_and_only_that_makes_loss_and_gradient_vanish(reshape, value, gain):
    for loss, columns in ((shaped_likelihood, ()), (reshaped_ratio, (one(value - 0.3),))):
        assert loss.vanishes_with == "advantages"
        lp = one(value, grad=True)
        out = loss(lp, *columns, torch.tensor([gain], dtype=torch.float64), reshape=reshape)
        (gradient,) = torch.autograd.grad(out, lp)
        assert (float(gradient) == 0) == (gain == 0)


@given(logprob, logprob, advantage)
def test_the_unshaped_ratio_is_the_surrogate_without_a_clip(new, old, gain):
    gain = torch.tensor([gain], dtype=torch.float64)
    ours = reshaped_ratio(one(new), one(old), gain, reshape="none")
    clip = {"clip_low": math.inf, "clip_high": math.inf}
    torch.testing.assert_close(ours, ppo_clip(one(new), one(old), gain, **clip))


@pytest.mark.parametrize("reshape", ["none", "square_root", "pow", "p_div_p", "p_logp"])
@given(value=logprob)
def test_a_reshaped_ratio_is_one_on_policy(reshape, value):
    loss = reshaped_ratio(one(value), one(value), torch.ones(1), reshape=reshape)
    assert float(loss) == pytest.approx(-1.0, abs=1e-12)


@given(logprob, st.floats(-5.0, -1e-3))
def test_a_target_of_certainty_is_the_unshaped_likelihood_and_a_mixture_of_it_too(value, old):
    """log q = 0 is q = 1; the mixture's estimate of the expert is 1 where the old policy is."""
    plain = shaped_likelihood(one(value), torch.ones(1), reshape="none")
    certain = target_likelihood(one(value), one(0.0), torch.ones(1), eps=0.0)
    mixture = mixture_likelihood(one(value), one(0.0), torch.ones(1))
    torch.testing.assert_close(certain, plain)
    torch.testing.assert_close(mixture, plain)
    below = mixture_likelihood(one(value), one(old), torch.ones(1))
    assert float(below) <= float(plain)


def test_what_is_beyond_floor_or_ceiling_has_no_gradient():
    lp = torch.tensor([[-9.0, -1.0, -0.01]], dtype=torch.float64, requires_grad=True)
    bounds = {"floor": 0.1, "ceiling": 0.9}
    for loss in (
        shaped_likelihood(lp, torch.ones(1), **bounds),
        target_likelihood(lp, torch.zeros(1, 3, dtype=torch.float64), torch.ones(1), **bounds),
    ):
        gradient = torch.autograd.grad(loss.sum(), lp)[0][0]
        assert gradient[0] == 0 and gradient[1] < 0 and gradient[2] == 0


def test_a_token_of_probability_zero_has_loss_and_gradient_zero():
    for reshape in ("p_div_p", "none", "square_root", "pow"):
        lp = one(-math.inf, grad=True)
        loss = shaped_likelihood(lp, torch.ones(1), reshape=reshape)
        assert float(loss.detach()) == 0.0
        assert float(torch.autograd.grad(loss, lp)[0]) == 0.0


def test_the_old_policy_gets_no_gradient():
    new, old = one(-1.0, grad=True), one(-1.2, grad=True)
    for loss in (reshaped_ratio, mixture_likelihood, target_likelihood):
        out = loss(new, old, torch.ones(1))
        assert torch.autograd.grad(out, [old], allow_unused=True, retain_graph=True)[0] is None
