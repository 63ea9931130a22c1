"""Rewards, critics, environments: one that breaks a promise is found out, by that promise."""

import random

import pytest
import torch
from promises import broken

from didact import Failed, Feedback, each


def half(trajectories):
    return [1.0] * (len(trajectories) // 2)


def boolean(trajectories):
    return ["good" for _ in trajectories]


def infinite(trajectories):
    return [float("inf") for _ in trajectories]


def best_of_all(trajectories):
    most = max((len(t.tokens) for t in trajectories), default=0)
    return [float(len(t.tokens) == most) for t in trajectories]


def chance(trajectories):
    return [random.random() for _ in trajectories]


def never(trajectories):
    return [Failed("no") for _ in trajectories]


def only_answered(trajectories):
    return [float(len(t.prompt.problem.metadata["level"] * "x")) for t in trajectories]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (half, "values for"),
        (boolean, "returned 'good'"),
        (infinite, "returned inf"),
        (best_of_all, "grouped=True"),
        (chance, "another reward|two results"),
        (never, "all failed, the first"),
        (only_answered, "KeyError: 'level'|TypeError"),
    ],
)
def test_a_broken_reward_is_found_out(reward, said):
    broken("reward", reward, said)


def test_a_reward_that_cannot_be_pickled_is_found_out():
    broken("reward", each(lambda trajectory: 1.0), "cannot be sent to a worker process")


def shelved(trajectories):
    trajectories.sort(key=lambda trajectory: len(trajectory.text))
    return [1.0 for _ in trajectories]


def relabelling(trajectories):
    for trajectory in trajectories:
        trajectory.signals["success"] = 1.0
    return [1.0 for _ in trajectories]


def erasing(trajectories):
    for trajectory in trajectories:
        trajectory.tokens.fill_(1)
    return [1.0 for _ in trajectories]


@pytest.mark.parametrize("reward", [shelved, relabelling, erasing])
def test_a_reward_or_critic_that_changes_what_it_is_given_is_found_out(reward):
    def critic(trajectories, run):
        reward(trajectories)
        return [Feedback("no", "critic") for _ in trajectories]

    broken("reward", reward, "it changes the trajectories it is given")
    broken("critic", critic, "it changes the trajectories it is given")


def numbered(trajectories):
    return dict.fromkeys(range(len(trajectories)), 5.0)


def test_a_reward_that_is_a_mapping_is_found_out():
    broken("reward", numbered, "returned a dict, no sequence")


def seeding(trajectories):
    torch.manual_seed(0)
    return [float(torch.rand(())) for _ in trajectories[:1]] * len(trajectories)


def test_a_part_that_seeds_a_generator_of_all_is_found_out():
    broken("reward", seeding, "draws from a global random generator, or seeds it")


def mute(trajectories, run):
    return [Feedback("", "mute") for _ in trajectories]


def curt(trajectories, run):
    return ["no" for _ in trajectories]


def test_a_broken_critic_is_found_out():
    broken("critic", mute, "has no text")
    broken("critic", curt, "neither Feedback nor Failed")


class Shouts:
    """Replies with a number."""

    def reply(self, prompt, response, turn):
        return turn


def test_a_broken_environment_is_found_out():
    broken("environment", Shouts, "neither str nor None")
