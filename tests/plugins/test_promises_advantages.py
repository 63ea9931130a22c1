"""Estimators of advantages: one that breaks a promise is found out, by that promise."""

import pytest
import torch
from promises import broken

from didact import adds


def by_position(rewards, groups):
    return rewards * torch.arange(1, len(rewards) + 1)


def unguarded(rewards, groups):
    return (rewards - rewards.mean()) / rewards.std()


@adds("advantages", "kept")
def undeclared(rewards):
    return rewards.clone()


def aliased(rewards):
    return rewards.sub_(1)


def whole_numbers(rewards):
    return (rewards > 0.5).long()


def lucky(rewards):
    return rewards + torch.rand(len(rewards))


class Forgetful:
    """Counts, and forgets to save it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, rewards):
        self.calls += 1
        return rewards * self.calls

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Takes nothing."""


class Running:
    """Counts, and has no state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, rewards):
        self.calls += 1
        return rewards * self.calls


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (by_position, "changes by .* with the order of trajectories"),
        (unguarded, "not finite when every reward is 0"),
        (undeclared, "declares \\['advantages', 'kept'\\]"),
        (aliased, "changes its input rewards in place"),
        (whole_numbers, "int64, not a float|is torch.int64"),
        (lucky, "take `draws` for chance|global generator"),
        (Forgetful, "after load_state_dict it goes on differently"),
        (Running, "resumed without a state_dict it goes on differently"),
    ],
)
def test_a_broken_estimator_is_found_out(estimator, said):
    broken("advantage", estimator, said)
