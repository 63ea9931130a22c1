"""Buffers that give by chance or by priority."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Any, Literal

from didact.core.protocols import State
from didact.core.ranges import Count, NonNegative
from didact.core.seeds import seed_of
from didact.core.types import Prompt, Trajectory
from didact.feedback.shelf import Shelf, checked, signal


class Reservoir:
    """A uniform sample of everything that was ever added; keeps what it gives.

    Algorithm R (Vitter 1985): the k-th arrival stays with probability capacity / k. `sample` draws
    without replacement.

    Args:
        capacity: most trajectories.
        seed: of both the choice of what stays and the draws.
    """

    def __init__(self, capacity: Count = 4096, seed: int = 0) -> None:
        self.capacity = checked(capacity)
        self.seed = seed
        self._shelf = Shelf()
        self._seen = 0
        self._draws = 0

    @property
    def dropped(self) -> int:
        return self._shelf.dropped

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        for trajectory in trajectories:
            self._seen += 1
            arrived = self._shelf.put(trajectory)
            if self.capacity is not None and len(self) > self.capacity:
                self._shelf.drop(self._leaving(arrived, self.capacity))

    def sample(self, count: int) -> Sequence[Trajectory]:
        rng = random.Random(seed_of(self.seed, "draw", self._draws))
        self._draws += 1
        items = list(self._shelf.items.values())
        return rng.sample(items, min(count, len(items)))

    def matching(self, prompt: Prompt) -> Sequence[Trajectory]:
        return list(self._shelf.of(prompt).values())

    def __len__(self) -> int:
        return len(self._shelf.items)

    def state_dict(self) -> State:
        return {"shelf": self._shelf.state_dict(), "seen": self._seen, "draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shelf.load_state_dict(state["shelf"])
        self._seen, self._draws = state["seen"], state["draws"]

    def _leaving(self, arrived: int, capacity: int) -> int:
        """The newcomer itself, or whom it replaces."""
        place = random.Random(seed_of(self.seed, "keep", self._seen)).randrange(self._seen)
        return list(self._shelf.items)[place] if place < capacity else arrived


class Prioritized:
    """Gives by priority |signal|, and keeps what it gives; the lowest priorities fall off.

    Args:
        by: the signal that is the priority, e.g. "advantages".
        capacity: most trajectories.
        draw: "proportional" draws without replacement with probability p^alpha / sum p^alpha
            (prioritised replay, arXiv:1511.05952, equation 1); "greedy" takes the highest, the
            newest of equals first.
        alpha: exponent of the proportional draw; 0 is uniform.
        floor: added to every priority, so that none is 0.
        seed: of the draws.
    """

    def __init__(
        self,
        by: str,
        capacity: Count = 4096,
        draw: Literal["proportional", "greedy"] = "proportional",
        alpha: NonNegative = 0.6,
        floor: NonNegative = 1e-6,
        seed: int = 0,
    ) -> None:
        self.by, self.draw, self.alpha, self.floor, self.seed = by, draw, alpha, floor, seed
        self.capacity = checked(capacity)
        self._shelf = Shelf()
        self._draws = 0

    @property
    def dropped(self) -> int:
        return self._shelf.dropped

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        for trajectory in trajectories:
            self._priority(trajectory)
            self._shelf.put(trajectory)
        items = self._shelf.items
        surplus = 0 if self.capacity is None else max(len(items) - self.capacity, 0)
        for number in sorted(items, key=lambda n: self._priority(items[n]))[:surplus]:
            self._shelf.drop(number)

    def sample(self, count: int) -> Sequence[Trajectory]:
        newest_first = list(reversed(self._shelf.items.values()))
        rng = random.Random(seed_of(self.seed, "draw", self._draws))
        self._draws += 1
        if self.draw == "greedy":
            return sorted(newest_first, key=self._priority, reverse=True)[:count]
        weights = [max(self._priority(item) ** self.alpha, 1e-300) for item in newest_first]
        # the largest log(u) / w are a weighted draw without replacement (Efraimidis 2006)
        keys = [log(1 - rng.random()) / weight for weight in weights]
        ranked = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
        return [newest_first[at] for at in ranked[:count]]

    def matching(self, prompt: Prompt) -> Sequence[Trajectory]:
        return list(self._shelf.of(prompt).values())

    def __len__(self) -> int:
        return len(self._shelf.items)

    def state_dict(self) -> State:
        return {"shelf": self._shelf.state_dict(), "draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shelf.load_state_dict(state["shelf"])
        self._draws = state["draws"]

    def _priority(self, trajectory: Trajectory) -> float:
        return abs(signal(trajectory, self.by, "prioritized")) + self.floor
