"""Sources and stages: one that breaks a promise is found out, by that promise."""

from dataclasses import dataclass, replace

import torch
from promises import broken, held

from didact import Trajectory


@dataclass(frozen=True)
class Source:
    """Says the same to everybody, unless a subclass for a test spoils it."""

    def extend(self, groups, run):
        return [[self.one(group, run)] for group in groups]

    def one(self, group, run):
        tokens = torch.tensor([1, 2, 3])
        return Trajectory(group.prompt, tokens, torch.ones(3, dtype=torch.bool), "source")


class Chancy(Source):
    """Draws from the global generator."""

    def one(self, group, run):
        return replace(super().one(group, run), tokens=torch.randint(1, 1000, (3,)))


class Mixed(Source):
    """Answers for another group."""

    def extend(self, groups, run):
        return super().extend(groups, run)[::-1]


class Skewed(Source):
    """Has a column that is too short."""

    def one(self, group, run):
        return super().one(group, run).with_columns(behavior_logprobs=torch.zeros(2))


class Few(Source):
    """Answers for the first group alone."""

    def extend(self, groups, run):
        return super().extend(groups, run)[:1]


class Marking(Source):
    """Writes into the groups."""

    def one(self, group, run):
        group.signals["seen"] = 1.0
        return super().one(group, run)


class Streaming(Source):
    """Yields."""

    def extend(self, groups, run):
        yield from super().extend(groups, run)


def test_a_broken_source_is_found_out():
    held("source", Source)
    broken("source", Marking, "it changed the groups it was given")
    broken("source", Streaming, "returned a generator, not a sequence")
    broken("source", Chancy, "the same seed gave other trajectories")
    broken("source", Mixed, "a trajectory of .* came for")
    broken("source", Skewed, "column 'behavior_logprobs' must be float")
    broken("source", Few, "1 sequences for 4 groups")


@dataclass(frozen=True)
class Plain:
    """Does nothing, unless a subclass for a test spoils it."""

    needs = frozenset()
    adds = frozenset()

    def __call__(self, groups, run):
        return groups


class Liar(Plain):
    """Says that it adds something."""

    adds = frozenset({"wisdom"})


class Secretive(Plain):
    """Adds something and does not say so."""

    def __call__(self, groups, run):
        return [group.each(lambda member: member.with_signals(secret=1.0)) for group in groups]


class Blanking(Plain):
    """Writes into columns."""

    def __call__(self, groups, run):
        for member in groups[0].members:
            member.columns["behavior_logprobs"].zero_()
        return groups


class Yielding(Plain):
    """Yields."""

    def __call__(self, groups, run):
        yield from groups


class Fragile(Plain):
    """Cannot bear a group without members."""

    def __call__(self, groups, run):
        assert all(group.members[0] for group in groups)
        return groups


def test_a_broken_stage_is_found_out():
    held("stage", Plain)
    broken("stage", Liar, "declares that it adds 'wisdom'")
    broken("stage", Fragile, "IndexError")
    broken("stage", Secretive, "it adds secret and does not declare it")
    broken("stage", Blanking, "it changed the groups it was given")
    broken("stage", Yielding, "returned a generator, not a sequence")
