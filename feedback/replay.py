"""Replay: what was remembered of a prompt comes back into its group."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import pvariance
from typing import Literal

from didact.core.errors import RecipeError, unknown
from didact.core.protocols import ReplayBuffer, Run
from didact.core.ranges import Count, Whole
from didact.core.seeds import seed_of
from didact.core.types import Group, Trajectory
from didact.feedback.shelf import signal

SAMPLED = frozenset({"behavior_logprobs", "prefix"})
"""Columns that belong to the response itself, and stay true when it is replayed."""
OWN = ("reward", "success", "turns")


@dataclass(frozen=True)
class ReplaySource:
    """Up to n remembered trajectories of the same prompt, of origin "replay".

    They keep their columns, above all `behavior_logprobs`, their version, and of their signals
    what is a fact about themselves: reward, its parts, and success. What was relative to the group
    of their time (advantages, success rate) is left behind. A trajectory that is a member of the
    group already is never replayed into it. Counted in `run.metrics`: `replay/offered`.

    Picks: the "newest", the "oldest", a "random" choice without replacement (by seed, step and
    prompt), the "highest" rewards (oldest of equals first), or the subset of "max_variance" of
    rewards (of equals the larger sum, then the first found) as RePO, SihengLi99/RePO at 119fef69.

    Attributes:
        buffer: name of the recipe's buffer to remember from.
        n: most per group.
        pick: which, if more are remembered.
        at_least: remembered trajectories below which none is replayed.
        min_age: least age in weight versions; 1 leaves out what the present weights said, so
            what was stored in this very step.
        keep: further signals that come along.
    """

    buffer: str
    n: Count = 1
    pick: Literal["newest", "oldest", "random", "highest", "max_variance"] = "newest"
    at_least: Whole = 0
    min_age: Whole = 0
    keep: Sequence[str] = ()

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        if self.buffer not in run.buffers:
            raise RecipeError(f"replay: {unknown('buffer', self.buffer, run.buffers)}")
        memory = run.buffers[self.buffer]
        offered = [self._chosen(group, memory, run) for group in groups]
        count = float(sum(map(len, offered)))
        run.metrics["replay/offered"] = run.metrics.get("replay/offered", 0.0) + count
        return offered

    def _chosen(self, group: Group, memory: ReplayBuffer, run: Run) -> Sequence[Trajectory]:
        here = {id(member.tokens) for member in group.members}
        old = [one for one in memory.matching(group.prompt) if id(one.tokens) not in here]
        if self.min_age > 0:
            latest = run.generators["policy"].version - self.min_age
            old = [one for one in old if one.version is None or one.version <= latest]
        if len(old) < self.at_least:
            return []
        rng = random.Random(seed_of(run.seed, run.step, group.prompt.id, "replay", self.buffer))
        return [self._again(one) for one in PICKS[self.pick](old, self.n, rng)]

    def _again(self, old: Trajectory) -> Trajectory:
        kept = {
            name: value
            for name, value in old.signals.items()
            if name in OWN or name.startswith("reward/") or name in self.keep
        }
        columns = {n: c for n, c in old.columns.items() if n in SAMPLED or n in self.keep}
        return replace(old, origin="replay", signals=kept, columns=columns)


def _newest(old: Sequence[Trajectory], n: int, rng: random.Random) -> Sequence[Trajectory]:
    return old[-1 : -n - 1 : -1]


def _oldest(old: Sequence[Trajectory], n: int, rng: random.Random) -> Sequence[Trajectory]:
    return old[:n]


def _random(old: Sequence[Trajectory], n: int, rng: random.Random) -> Sequence[Trajectory]:
    return rng.sample(old, min(n, len(old)))


def _highest(old: Sequence[Trajectory], n: int, rng: random.Random) -> Sequence[Trajectory]:
    return sorted(old, key=_reward, reverse=True)[:n]


def _max_variance(old: Sequence[Trajectory], n: int, rng: random.Random) -> Sequence[Trajectory]:
    """Exhaustive, so meant for tens of remembered trajectories."""

    def spread(subset: Sequence[Trajectory]) -> tuple[float, float]:
        rewards = [_reward(one) for one in subset]
        return pvariance(rewards), sum(rewards)

    return max(combinations(old, min(n, len(old))), key=spread) if old and n else ()


def _reward(one: Trajectory) -> float:
    return signal(one, "reward", "replay")


Pick = Callable[[Sequence[Trajectory], int, random.Random], Sequence[Trajectory]]
PICKS: Mapping[str, Pick] = {
    "newest": _newest,
    "oldest": _oldest,
    "random": _random,
    "highest": _highest,
    "max_variance": _max_variance,
}
