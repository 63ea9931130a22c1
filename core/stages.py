"""The built-in stages. Each says what it needs and adds, so recipes are checked on load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from didact.core.errors import PluginError, RecipeError
from didact.core.phase import readout_of
from didact.core.pipeline import Pipeline, each_a, unmet
from didact.core.protocols import (
    CritiqueProvider,
    Failed,
    Names,
    Reader,
    RolloutSource,
    Run,
    Stage,
)
from didact.core.ranges import Count
from didact.core.schedule import now
from didact.core.types import Feedback, Group, Trajectory, changed
from didact.core.where import EVERYTHING, Where

NOTHING: Names = frozenset()


@dataclass(frozen=True)
class Rollout:
    """Ask a source for more trajectories, in the groups that match.

    Attributes:
        times: the group's signal that says how often the source is asked, each time for its n, as
            `allot_by_accuracy` and `allot_by_gradient` write one; None: once.
    """

    source: RolloutSource
    where: Where = EVERYTHING
    times: str | None = None

    @property
    def needs(self) -> Names:
        own: Names = getattr(now(self.source, 0), "needs", NOTHING)
        return own | self.where.needs | (frozenset({self.times}) if self.times else NOTHING)

    @property
    def adds(self) -> Names:
        own: Names = getattr(now(self.source, 0), "adds", NOTHING)
        return own | {"members"}

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        chosen = [g for g in groups if self.where(g) for _ in range(self._asked(g))]
        who = f"source '{type(self.source).__name__}'"
        fresh = each_a(Sequence, now(self.source, run.step).extend(chosen, run), who, len(chosen))
        added: dict[int, list[Trajectory]] = {}
        for group, new in zip(chosen, fresh, strict=True):
            mine = each_a(Trajectory, new, who)
            if any(member.prompt.id != group.prompt.id for member in mine):
                raise PluginError(f"{who} gave '{group.prompt.id}' trajectories of another prompt.")
            added.setdefault(id(group), []).extend(mine)
        return [group.add(added.get(id(group), ())) for group in groups]

    def _asked(self, group: Group) -> int:
        if self.times is None:
            return 1
        count = group.signals.get(self.times)
        if count is None or count < 0 or count != int(count):
            raise RecipeError(
                f"rollout: 'times' reads '{self.times}' of group '{group.prompt.id}', which is "
                f"{count}, not a whole number from 0 on."
            )
        return int(count)


@dataclass(frozen=True)
class Critique:
    """Attach feedback in words to the trajectories that match."""

    critic: CritiqueProvider
    where: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        own: Names = getattr(now(self.critic, 0), "needs", frozenset({"members"}))
        return own | self.where.needs

    @property
    def adds(self) -> Names:
        return frozenset({"feedback"})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        chosen = [m for group in groups for m in group.members if self.where(m)]
        given, who = now(self.critic, run.step)(chosen, run), type(self.critic).__name__
        said = each_a((Feedback, Failed), given, f"critic '{who}'", len(chosen))
        words = {id(m): given for m, given in zip(chosen, said, strict=True)}
        failed = sum(isinstance(given, Failed) for given in said)
        run.metrics["critique/failed"] = run.metrics.get("critique/failed", 0.0) + failed

        def heard(member: Trajectory) -> Trajectory:
            given = words.get(id(member))
            if given is None or isinstance(given, Failed):
                return member
            return changed(member, feedback=(*member.feedback, given))

        return [group.each(heard) for group in groups]


@dataclass(frozen=True)
class Keep:
    """Drop groups that do not match, and members that do not; both are counted.

    A member is judged by its group's signals beside its own, as when it leaves the group.
    """

    where: Where = EVERYTHING
    members: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        return self.where.needs | self.members.needs

    @property
    def adds(self) -> Names:
        return NOTHING

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        kept = [group for group in groups if self.where(group)]
        done = [changed(group, members=tuple(self._staying(group))) for group in kept]
        members = sum(len(b.members) - len(a.members) for b, a in zip(kept, done, strict=True))
        for name, count in (("groups", len(groups) - len(kept)), ("members", members)):
            key = f"keep/{name}_dropped"
            run.metrics[key] = run.metrics.get(key, 0.0) + count
        return done

    def _staying(self, group: Group) -> Iterator[Trajectory]:
        seen = zip(group.members, group.leaving(), strict=True)
        return (member for member, with_group in seen if self.members(with_group))


@dataclass(frozen=True)
class Swap:
    """Trade the first members of other origins for the best of one origin.

    Critique-GRPO (arXiv:2506.03106) trades one of its samples for the best refinement: the first
    with the highest reward. The group keeps its size; other members of that origin are dropped.
    """

    best: str
    count: Count = 1

    @property
    def needs(self) -> Names:
        return frozenset({"reward"})

    @property
    def adds(self) -> Names:
        return NOTHING

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        return [self._trade(group) for group in groups]

    def _trade(self, group: Group) -> Group:
        offered = [m for m in group.members if m.origin == self.best]
        others = [m for m in group.members if m.origin != self.best]
        ranked = sorted(offered, key=lambda m: -m.signals["reward"])  # stable: the first best wins
        chosen = ranked[: self.count]
        return changed(group, members=(*chosen, *others[len(chosen) :]))


@dataclass(frozen=True)
class Mark:
    """Write fixed numbers on the members that match: what others carry and these would lack.

    `{signals: {prefix_id: 0}, per_token: {prefix: 0}, where: {origin: policy}}`.

    Attributes:
        signals: by name, for the trajectory.
        per_token: columns by name, the same number for each of its tokens.
    """

    signals: Mapping[str, float] = field(default_factory=dict)
    per_token: Mapping[str, float] = field(default_factory=dict)
    where: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        return self.where.needs | {"members"}

    @property
    def adds(self) -> Names:
        return frozenset(self.signals) | frozenset(self.per_token)

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        return [group.each(self._marked) for group in groups]

    def _marked(self, member: Trajectory) -> Trajectory:
        if not self.where(member):
            return member
        columns = {n: torch.full(member.tokens.shape, float(v)) for n, v in self.per_token.items()}
        return member.with_signals(**self.signals).with_columns(**columns)


@dataclass(frozen=True)
class Store:
    """Remember matching trajectories in a named buffer."""

    buffer: str
    where: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        return self.where.needs | {"members"}

    @property
    def adds(self) -> Names:
        return NOTHING

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        run.buffers[self.buffer].add(m for g in groups for m in g.leaving() if self.where(m))
        return groups


@dataclass(frozen=True)
class Read:
    """Read columns out of models, for stages and estimators that want them before a phase."""

    columns: Sequence[str]
    where: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        return self.where.needs | {"members"}

    @property
    def adds(self) -> Names:
        return frozenset(self.columns)

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        rows = [m for group in groups for m in group.members if self.where(m)]
        index = [id(m) for m in rows]
        fresh: Sequence[Trajectory] = rows
        for column in self.columns:
            fresh = _reader(column, run).freeze(fresh, frozenset({column}))
        new = dict(zip(index, fresh, strict=True))
        return [group.each(lambda m: new.get(id(m), m)) for group in groups]


def _reader(column: str, run: Run) -> Reader:
    """Whose column it is: its prefix names a model; without one, or with "old", who learns now."""
    prefix, _ = readout_of(column) or ("?", column)
    own = "value" if column == "values" else "policy"
    name = own if prefix in ("", "old") else prefix
    models: Mapping[str, Reader] = {**run.learners, **run.frozen}
    model = models.get(name)
    if model is None:
        known = ", ".join(sorted(models))
        raise RecipeError(f"read: no model '{name}' for '{column}' (there is: {known}).")
    return model


@dataclass(frozen=True)
class Fill:
    """Draw further prompts through the same stages until enough groups survive.

    Dynamic sampling of DAPO, arXiv:2503.14476. Surplus groups are dropped and counted.

    Attributes:
        groups: how many groups the step shall have.
        stages: what each drawn prompt goes through, usually rollout, score, keep.
        rounds: most draws in one step; too few survivors after that are used and counted.
    """

    groups: Count
    stages: Sequence[Stage]
    rounds: Count = 4

    @property
    def needs(self) -> Names:
        return unmet(self.stages)

    @property
    def adds(self) -> Names:
        return frozenset().union(*(stage.adds for stage in self.stages))

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        inner = Pipeline([(f"fill/{type(s).__name__.lower()}", s) for s in self.stages])
        kept = list(inner(groups, run))
        rounds = 1
        while len(kept) < self.groups and rounds < self.rounds:
            problems = run.sampler.draw(run.step)
            kept += inner([Group(p) for p in run.renderer.prompts(problems)], run)
            rounds += 1
        run.metrics["fill/rounds"] = float(rounds)
        run.metrics["fill/surplus"] = float(max(len(kept) - self.groups, 0))
        run.metrics["fill/missing"] = float(max(self.groups - len(kept), 0))
        return kept[: self.groups]
