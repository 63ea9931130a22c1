"""Likelihood and its probability weights: identities and edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.shaped import shaped_likelihood
from didact.algorithms.supervised import (
    hardness,
    negative_log_likelihood,
    probability,
    probability_cap,
    rarity,
    uncertainty,
)

NO_LIMIT = {"clip_low": math.inf, "clip_high": math.inf}
logprob = st.floats(-12.0, -1e-3)


def one(value):
    return torch.tensor([[value]], dtype=torch.float64, requires_grad=True)


def slope(loss, *columns, **settings):
    (gradient,) = torch.autograd.grad(loss(*columns, **settings).sum(), columns[0])
    return float(gradient)


@given(logprob)
def test_supervision_is_the_clipped_surrogate_with_unit_advantage_at_ratio_one(value):
    lp = one(value)
    clipped = slope(ppo_clip, lp, lp.detach(), torch.ones(1))
    assert clipped == pytest.approx(slope(negative_log_likelihood, lp), abs=1e-12) == -1.0


@given(logprob)
def test_the_probability_weight_gives_the_gradient_of_minus_the_probability(value):
    """DFT and CHORD-IS are one rule: the weight p without gradient on the likelihood. It has the
    gradient of -p itself, LUFFY's `none` shape at unit advantage."""
    lp = one(value)
    weighted = slope(lambda x: negative_log_likelihood(x) * probability(x), lp)
    plain = slope(shaped_likelihood, lp, torch.ones(1), reshape="none")
    assert weighted == pytest.approx(plain, abs=1e-12) == pytest.approx(-math.exp(value))


@given(logprob, st.floats(0.01, 2.0))
def test_the_rarity_weight_gives_the_gradient_of_the_shaped_likelihood(value, gamma):
    lp, p = one(value), math.exp(value)
    weighted = slope(lambda x: negative_log_likelihood(x) * rarity(x, gamma=gamma), lp)
    assert weighted == pytest.approx(slope(shaped_likelihood, lp, torch.ones(1), gamma=gamma))
    assert weighted == pytest.approx(-gamma * p / (p + gamma) ** 2, rel=1e-9)


def test_weights_have_no_gradient_and_their_extremes_are_where_they_should_be():
    lp = torch.tensor([[math.log(0.5), math.log(0.1), -1e-12, -math.inf]], requires_grad=True)
    for weight in (probability, uncertainty, rarity, hardness):
        assert not weight(lp).requires_grad
        assert weight(lp).isfinite().all()
    torch.testing.assert_close(uncertainty(lp)[0, 0], torch.tensor(0.25))
    torch.testing.assert_close(rarity(lp, gamma=0.1)[0, 1], torch.tensor(0.25))
    assert probability_cap(lp, at_most=0.3).tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_the_cutoff_takes_the_gradient_from_tokens_that_are_likely_enough():
    lp = torch.tensor([[math.log(0.6), math.log(0.4)]], dtype=torch.float64, requires_grad=True)
    loss = negative_log_likelihood(lp, cutoff=0.5)
    assert loss.tolist() == [[pytest.approx(-math.log(0.5)), pytest.approx(-math.log(0.4))]]
    assert torch.autograd.grad(loss.sum(), lp)[0].tolist() == [[0.0, -1.0]]
    with pytest.raises(ValueError, match=r"cutoff must be in \(0, 1\], got 1.5"):
        negative_log_likelihood(lp, cutoff=1.5)
