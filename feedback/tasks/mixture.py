"""Several tasks as one, in exact proportions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from math import lcm
from random import Random

from didact.core.errors import RecipeError, unknown
from didact.core.protocols import TaskSource
from didact.core.ranges import Count
from didact.core.seeds import seed_of
from didact.core.types import Problem

LONGEST = 1000
"""Problems in the longest block; weights that need more are rounded to a thousandth."""


@dataclass(frozen=True)
class Mixture:
    """Problems of several tasks, as many of each as their weights say.

    With weights, problems come in short blocks that hold each task's exact share in random order.
    Each task is walked in its own order and begins again when it ends, so a small one with a great
    weight is repeated. Metadata `task` says where a problem is from, and its id begins with it
    (`NAME/…`), because those of two files of the same name are alike.

    Args:
        tasks: by name.
        weights: by name, relative; unset: one task after the other, every problem once.
        size: number of problems; unset: as many as all tasks together.
        seed: of the order within blocks.
    """

    tasks: Mapping[str, TaskSource]
    weights: Mapping[str, float] | None = None
    size: Count | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RecipeError("mixture: give at least one of 'tasks'.")
        if self.weights is None:
            return
        for name in self.weights:
            if name not in self.tasks:
                raise RecipeError(f"mixture: weights: {unknown('task', name, self.tasks)}")
        missing = [name for name in self.tasks if name not in self.weights]
        if missing or min(self.weights.values()) <= 0:
            said = f"task '{missing[0]}' has none" if missing else f"got {dict(self.weights)}"
            raise RecipeError(f"mixture: weights: every task needs one above 0; {said}.")

    @property
    def skipped(self) -> list[str]:
        """Rows that its tasks left out, with the reasons."""
        return [line for task in self.tasks.values() for line in getattr(task, "skipped", ())]

    @property
    def places(self) -> dict[str, str]:
        """Where the problems of its tasks stand, by id."""
        return {
            f"{name}/{id}": place
            for name, task in self.tasks.items()
            for id, place in getattr(task, "places", {}).items()
        }

    def __len__(self) -> int:
        return self.size or sum(map(len, self.tasks.values()))

    def __getitem__(self, index: int) -> Problem:
        if not 0 <= index < len(self):
            raise IndexError(f"mixture: there is no problem {index}; the task has {len(self)}.")
        chosen, rank = self._concatenated(index) if self.weights is None else self._mixed(index)
        name, task = list(self.tasks.items())[chosen]
        problem = task[rank % len(task)]
        metadata = {**problem.metadata, "task": name}
        return replace(problem, id=f"{name}/{problem.id}", metadata=metadata)

    def _concatenated(self, index: int) -> tuple[int, int]:
        """Which task, and which of its problems: one task after the other."""
        index %= sum(map(len, self.tasks.values()))
        for chosen, task in enumerate(self.tasks.values()):
            if index < len(task):
                return chosen, index
            index -= len(task)
        raise IndexError(index)

    def _mixed(self, index: int) -> tuple[int, int]:
        """Which task, and which of its problems: blocks of fixed shares."""
        block, place = divmod(index, sum(self.shares))
        order = _order(self.shares, seed_of("mixture", self.seed, block))
        chosen = order[place]
        return chosen, block * self.shares[chosen] + order[:place].count(chosen)

    @cached_property
    def shares(self) -> tuple[int, ...]:
        """Problems of each task in a block; empty without weights."""
        if self.weights is None:
            return ()
        weights = [Fraction(str(self.weights[name])) for name in self.tasks]
        exact = [weight / sum(weights) for weight in weights]
        block = lcm(*(share.denominator for share in exact))
        if block > LONGEST:
            return tuple(max(1, round(share * LONGEST)) for share in exact)
        return tuple(int(share * block) for share in exact)


@lru_cache(maxsize=256)
def _order(shares: tuple[int, ...], seed: int) -> tuple[int, ...]:
    order = [which for which, share in enumerate(shares) for _ in range(share)]
    Random(seed).shuffle(order)
    return tuple(order)
