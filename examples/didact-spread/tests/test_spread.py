"""The reward and the loss keep their promises, their numbers are right, and the recipe trains."""

import math

import pytest
import torch
from didact_spread import spread, variety

from didact.testing import PROBLEMS, Characters, check, train_tiny, trajectory


def test_contract(part):
    check(part)


def test_variety_is_the_share_of_distinct_tokens():
    prompt = Characters().prompt(PROBLEMS[0])
    assert variety(trajectory(prompt, "aab")) == 3 / 4  # a, b and the end, of four tokens


def test_spread_is_reinforce_without_gamma_and_half_of_it_at_one_half():
    logprobs = torch.full((1, 2), math.log(0.5), requires_grad=True)
    advantages = torch.tensor([2.0])
    plain, halved = (spread(logprobs, advantages, gamma=g) for g in (0.0, 1.0))
    torch.testing.assert_close(plain, -2 * logprobs)
    torch.testing.assert_close(halved, plain / 2)
    (gradient,) = torch.autograd.grad(halved.sum(), logprobs)
    torch.testing.assert_close(gradient, torch.full((1, 2), -1.0))


@pytest.mark.parametrize("recipe", ["spread", "spread/spread"])
def test_the_recipe_trains(recipe, tmp_path):
    assert (train_tiny(recipe, out=tmp_path / "run") / "final").exists()
