"""The advantage stage: one call of a pure estimator over every trajectory of the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

import torch
from torch import Tensor

from didact.core.batch import Batch
from didact.core.bind import adds_of, columns_of
from didact.core.errors import RecipeError
from didact.core.pipeline import listed
from didact.core.protocols import AdvantageEstimator, Estimate, Names, Run
from didact.core.schedule import now, value_at
from didact.core.score import Rewards
from didact.core.seeds import seed_of
from didact.core.types import Group, Trajectory, changed
from didact.core.where import EVERYTHING, Where

FROM_SIGNALS = {"rewards": "reward"}
MADE_HERE = frozenset(
    {"groups", "lengths", "mask", "reward_parts", "reward_weights", "on_policy", "draws"}
)


@dataclass(frozen=True)
class Annotate:
    """Estimate advantages, or other per-trajectory and per-token numbers, and write them down.

    The estimator is called once, over all chosen members of all chosen groups; its positional
    parameters say what it reads:

    * `rewards`: the signal "reward"; `lengths`: loss tokens; `mask`: loss tokens, bool [N, T]
    * `groups`: int64 [N], 0, 1, ... in the order of the groups
    * `reward_parts` [N, K] and `reward_weights` [K]: the recipe's rewards, unweighted, in order
    * `on_policy`: 1.0 where the origin is "policy", else 0.0
    * `draws`: a uniform random number in [0, 1) for each trajectory, the same on every rank
    * any other name: a signal, float64 [N], or a column [N, T], 0 where the loss mask is False

    Attributes:
        estimator: a function, a partial of one, or an object.
        bind: reads a parameter from another name, e.g. `{rewards: shaped_reward}`.
        where: the groups it is for.
        members: their members that count and get a value; the others count nowhere.
        rewards: the recipe's rewards; provided by the framework.
    """

    estimator: AdvantageEstimator
    bind: Mapping[str, str] = field(default_factory=dict)
    where: Where = EVERYTHING
    members: Where = EVERYTHING
    rewards: Rewards = field(default_factory=dict)

    @property
    def needs(self) -> Names:
        read: set[str] = {"members"}
        for source in self._sources.values():
            if source == "reward_parts":
                read |= {f"reward/{name}" for name in self.rewards}
            elif source not in MADE_HERE:
                read.add(source)
        return frozenset(read) | self.where.needs | self.members.needs

    @property
    def adds(self) -> Names:
        return adds_of(now(self.estimator, 0))

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        taken = [
            [at for at, member in enumerate(group.members) if self.members(member)]
            if self.where(group)
            else []
            for group in groups
        ]
        table = _Table(
            [
                (group, [group.members[at] for at in places])
                for group, places in zip(groups, taken, strict=True)
            ],
            self.rewards,
            run,
        )
        if not table.rows:
            return groups
        estimator = now(self.estimator, run.step)
        arguments = {name: table.read(source) for name, source in self._sources.items()}
        results = _named(estimator(**arguments), table.batch, adds_of(estimator))
        fresh = _written(table.rows, results)
        done = []
        for group, places in zip(groups, taken, strict=True):
            members = list(group.members)
            for at in places:
                members[at] = next(fresh)
            done.append(changed(group, members=tuple(members)) if places else group)
        return done

    @cached_property
    def _sources(self) -> dict[str, str]:
        """For each parameter, the name of what it is read from; the same at every step."""
        names = columns_of(now(self.estimator, 0))
        unknown = set(self.bind) - set(names)
        if unknown:
            raise RecipeError(
                f"advantage: 'bind' names {listed(unknown)}, which the estimator does not read "
                f"(it reads: {', '.join(names)})."
            )
        sources = {name: self.bind.get(name, name) for name in names}
        return {name: FROM_SIGNALS.get(source, source) for name, source in sources.items()}


@dataclass(frozen=True, eq=False)
class _Table:
    """The trajectories of a step as tensors, by name; each has its group's signals too."""

    groups: Sequence[tuple[Group, Sequence[Trajectory]]]
    rewards: Rewards
    run: Run

    @cached_property
    def batch(self) -> Batch:
        return Batch(tuple(member for _, members in self.groups for member in members))

    @property
    def rows(self) -> Sequence[Trajectory]:
        return self.batch.rows

    def read(self, name: str) -> Tensor:
        match name:
            case "groups":
                filled = [members for _, members in self.groups if members]
                return torch.tensor([at for at, members in enumerate(filled) for _ in members])
            case "mask":
                return self.batch.mask
            case "lengths":
                return torch.tensor([int(row.trainable.sum()) for row in self.rows])
            case "on_policy":
                return _numbers([float(row.origin == "policy") for row in self.rows])
            case "reward_parts":
                parts = [self._signal(f"reward/{reward}") for reward in self._named_rewards()]
                return torch.stack(parts, 1)
            case "reward_weights":
                given = self._named_rewards().values()
                return _numbers([value_at(reward.weight, self.run.step) for reward in given])
            case "draws":
                placed = [each for _, members in self.groups for each in enumerate(members)]
                return _numbers([self._draw(member, at) for at, member in placed])
        if all(name in row.columns for row in self.rows):
            return torch.where(self.batch.mask, self.batch.stored(name), 0.0)
        return self._signal(name)

    def _named_rewards(self) -> Rewards:
        if not self.rewards:
            raise RecipeError("advantage: the estimator reads 'reward_parts', but there are none.")
        return self.rewards

    def _draw(self, row: Trajectory, at: int) -> float:
        return Random(seed_of(self.run.seed, self.run.step, row.prompt.id, "draw", at)).random()

    def _signal(self, name: str) -> Tensor:
        values: list[float] = []
        lacking: list[tuple[Group, Trajectory]] = []
        for group, members in self.groups:
            shared = group.signals.get(name)
            for member in members:
                value = member.signals.get(name, shared)
                if value is None:
                    lacking.append((group, member))
                else:
                    values.append(value)
        if lacking:
            group, first = lacking[0]
            there = sorted({*group.signals, *first.signals, *first.columns})
            raise RecipeError(
                f"advantage: '{name}' is missing on {len(lacking)} of {len(self.rows)} "
                f"trajectories (the first: prompt '{first.prompt.id}', origin {first.origin}; it "
                f"has: {', '.join(there) or 'none'})."
            )
        return _numbers(values)


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _named(estimate: Estimate, batch: Batch, promised: Names) -> dict[str, Tensor]:
    """The estimator's results by name, checked: what was promised, in shape, and finite."""
    results = {"advantages": estimate} if not isinstance(estimate, Mapping) else dict(estimate)
    for name, value in results.items():
        if not isinstance(value, Tensor):
            raise RecipeError(f"advantage: '{name}' is {type(value).__name__}, not a tensor.")
    if set(results) != promised:
        raise RecipeError(
            f"advantage: the estimator returned {listed(set(results))}, but declares "
            f"{listed(promised)}."
        )
    rows, width = batch.rows, max(row.tokens.numel() for row in batch.rows)
    for name, value in results.items():
        if value.shape not in ((len(rows),), (len(rows), width)):
            raise RecipeError(
                f"advantage: '{name}' has shape {list(value.shape)}; expected [{len(rows)}] or "
                f"[{len(rows)}, {width}]."
            )
        if value.dim() == 2:
            results[name] = value = torch.where(batch.mask, value, 0.0)
        finite = value.isfinite()
        if not finite.all():
            bad = (~finite).view(len(rows), -1).any(1).nonzero()
            row = rows[int(bad[0])]
            raise RecipeError(
                f"advantage: '{name}' is not finite on {len(bad)} of {len(rows)} trajectories "
                f"(the first: prompt '{row.prompt.id}', origin {row.origin})."
            )
    return results


def _written(rows: Sequence[Trajectory], results: Mapping[str, Tensor]) -> Iterator[Trajectory]:
    """Each row with its results; a name is a signal or a column, never both."""
    numbers = {name: value.tolist() for name, value in results.items() if value.dim() == 1}
    by_token = {name: value.float() for name, value in results.items() if value.dim() == 2}
    for at, row in enumerate(rows):
        signals, columns = dict(row.signals), row.columns
        for name, values in numbers.items():
            signals[name] = values[at]
        if by_token or not numbers.keys().isdisjoint(columns):
            signals = {name: value for name, value in signals.items() if name not in by_token}
            columns = {name: value for name, value in columns.items() if name not in numbers}
            for name, tokens in by_token.items():
                columns[name] = tokens[at, : row.tokens.numel()].clone()
        yield changed(row, signals=signals, columns=columns)
