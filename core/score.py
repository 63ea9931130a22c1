"""The score stage: rewards, successes and group summaries, with failures counted, never zeroed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

from didact.core.errors import RewardError
from didact.core.protocols import Failed, Names, RewardProvider, Run
from didact.core.ranges import Share
from didact.core.schedule import Scalar, now, value_at
from didact.core.types import Group, Trajectory, changed
from didact.core.where import Where

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weighted:
    """A reward of the recipe and what it counts for: weight x value + offset."""

    provider: RewardProvider
    weight: Scalar = 1.0
    offset: Scalar = 0.0


Rewards = Mapping[str, Weighted]
OF_GROUP: Names = frozenset({"success_rate", "positives", "negatives", "reward_mean", "reward_std"})
SUMMARY: Names = OF_GROUP | {"reward", "success"}
SAMPLED = Where({"origin": "policy"})


@dataclass(frozen=True)
class Score:
    """Reward every trajectory that has none yet, then summarise each group.

    A trajectory gets `reward/NAME` for each reward, `reward` (the sum of weight x value + offset)
    and `success` (0 or 1). A group gets `success_rate`, `positives` and `negatives` (how many
    members succeeded and failed), `reward_mean` and `reward_std` (population) over the members
    that `rate_over` chooses. A trajectory one of whose rewards failed is taken out of its
    group and counted under `reward/failed`; it never scores 0. A group that loses all its members
    so is dropped, and counted under `reward/groups_lost`. What is known of the others is noted in
    `run.scored`, for the sampler to learn from even if a later stage drops them.

    Attributes:
        rewards: the recipe's rewards by name.
        solved_by: the reward that decides success; the first of the recipe if not named.
        solved_at: its least value for a success.
        rate_over: the members a group's summary is about.
        tolerate: most failures, as a share of what was scored, before the run stops.
    """

    rewards: Rewards
    solved_by: str | None = None
    solved_at: float = 1.0
    rate_over: Where = SAMPLED
    tolerate: Share = 0.02

    @property
    def needs(self) -> Names:
        return frozenset({"members"})

    @property
    def adds(self) -> Names:
        parts = {f"reward/{name}" for name in self.rewards}
        return frozenset(parts) | SUMMARY

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        unscored = [m for g in groups for m in g.members if "reward" not in m.signals]
        parts = [
            (
                f"reward/{name}",
                run.world.map(partial(_call, now(given.provider, run.step)), unscored),
                value_at(given.weight, run.step),
                value_at(given.offset, run.step),
            )
            for name, given in self.rewards.items()
        ]
        decisive = f"reward/{self.solved_by or next(iter(self.rewards))}"
        scored: dict[int, Trajectory | None] = dict.fromkeys(map(id, unscored))
        failures: list[str] = []
        for at, member in enumerate(unscored):
            signals, total = dict(member.signals), 0.0
            for name, values, weight, offset in parts:
                value = values[at]
                if isinstance(value, Failed):
                    failures.append(f"{name}: {value.reason}")
                    break
                signals[name] = value
                total += weight * value + offset
            else:
                signals["reward"] = total
                signals["success"] = float(signals[decisive] >= self.solved_at)
                scored[id(member)] = changed(member, signals=signals)
        self._report(failures, len(unscored), run)
        done = [self._summarise(g, [scored.get(id(m), m) for m in g.members]) for g in groups]
        lost = [bool(g.members) and not d.members for g, d in zip(groups, done, strict=True)]
        run.metrics["reward/groups_lost"] = run.metrics.get("reward/groups_lost", 0.0) + sum(lost)
        done = [group for group, gone in zip(done, lost, strict=True) if not gone]
        run.scored |= {g.prompt.id: Group(g.prompt, signals=g.signals) for g in done}
        _log([m for m in scored.values() if m is not None], run)
        return done

    def _summarise(self, group: Group, members: Sequence[Trajectory | None]) -> Group:
        here = tuple(m for m in members if m is not None)
        counted = [m for m in here if self.rate_over(m)]
        signals = dict(group.signals)
        if counted:
            rewards = [m.signals["reward"] for m in counted]
            mean = sum(rewards) / len(rewards)
            solved = sum(m.signals["success"] for m in counted)
            signals["success_rate"] = solved / len(counted)
            signals["positives"], signals["negatives"] = solved, len(counted) - solved
            signals["reward_mean"] = mean
            signals["reward_std"] = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
        return changed(group, members=here, signals=signals)

    def _report(self, failures: Sequence[str], tried: int, run: Run) -> None:
        run.metrics["reward/failed"] = run.metrics.get("reward/failed", 0.0) + len(failures)
        if failures and len(failures) > self.tolerate * tried:
            raise RewardError(
                f"{len(failures)} of {tried} rewards failed (tolerated: {self.tolerate:.0%}). "
                f"The first: {failures[0]}"
            )
        if failures and run.world.rank == 0:
            log.warning("%d of %d rewards failed: %s", len(failures), tried, failures[0])


def _call(provider: RewardProvider, trajectories: Sequence[Trajectory]) -> Sequence[float | Failed]:
    given = provider(list(trajectories)) if trajectories else []  # its own list: it may sort it
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable):
        raise RewardError(f"reward {provider!r} gave a {type(given).__name__}, not a sequence.")
    values = list(given)
    if len(values) != len(trajectories):
        raise RewardError(
            f"reward {provider!r} gave {len(values)} values for {len(trajectories)} trajectories."
        )
    return [v if isinstance(v, Failed) else _number(v) for v in values]


def _number(value: Any) -> float | Failed:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return Failed(f"returned {value!r}, no number")
    return number if isfinite(number) else Failed(f"returned {number}")


def _log(scored: Sequence[Trajectory], run: Run) -> None:
    """Metrics at the source: of everything scored in a step, before any stage drops some."""
    for origin in sorted({m.origin for m in scored}):
        members = [m for m in scored if m.origin == origin]
        before = run.metrics.get(f"scored/{origin}", 0.0)
        total = before + len(members)
        sums = {n: sum(m.signals[n] for m in members) for n in ("reward", "success")}
        sums["length"] = float(sum(m.tokens.numel() for m in members))
        sums["truncated"] = float(sum(m.truncated for m in members))
        for name, value in sums.items():
            key = f"{name}/{origin}"
            run.metrics[key] = (run.metrics.get(key, 0.0) * before + value) / total
        run.metrics[f"scored/{origin}"] = total
