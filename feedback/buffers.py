"""Where trajectories wait: for a phase to be ready, or to be replayed.

In every buffer `matching` finds a prompt's trajectories by an index, oldest first; `dropped` counts
those that a full buffer has let go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from didact.core.protocols import State
from didact.core.ranges import Count
from didact.core.types import Prompt, Trajectory
from didact.feedback.shelf import Shelf, checked, signal


class Queue:
    """First in, first out; what is sampled is gone.

    Args:
        capacity: most trajectories; the oldest fall off. None: no limit.
    """

    def __init__(self, capacity: Count | None = None) -> None:
        self.capacity = checked(capacity)
        self._shelf = Shelf()

    @property
    def dropped(self) -> int:
        return self._shelf.dropped

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        _append(self._shelf, trajectories, self.capacity)

    def sample(self, count: int) -> Sequence[Trajectory]:
        chosen = list(islice(self._shelf.items, count))
        return [self._shelf.take(number) for number in chosen]

    def matching(self, prompt: Prompt) -> Sequence[Trajectory]:
        return list(self._shelf.of(prompt).values())

    def __len__(self) -> int:
        return len(self._shelf.items)

    def state_dict(self) -> State:
        return self._shelf.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shelf.load_state_dict(state)


class Stack:
    """What arrives in one `add` goes in front, in its order; what is sampled is gone.

    The buffer of ReLIFT as released (TheRoadQaQ/ReLIFT at eb95454f, trainer.py): newest steps
    first, so the oldest may wait for ever.

    Args:
        capacity: most trajectories; those at the end fall off. None: no limit.
    """

    def __init__(self, capacity: Count | None = None) -> None:
        self.capacity = checked(capacity)
        self._shelf = Shelf()
        self._order: deque[int] = deque()

    @property
    def dropped(self) -> int:
        return self._shelf.dropped

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        arrived = [self._shelf.put(trajectory) for trajectory in trajectories]
        self._order.extendleft(reversed(arrived))
        while self.capacity is not None and len(self._order) > self.capacity:
            self._shelf.drop(self._order.pop())

    def sample(self, count: int) -> Sequence[Trajectory]:
        chosen = [self._order.popleft() for _ in range(min(count, len(self._order)))]
        return [self._shelf.take(number) for number in chosen]

    def matching(self, prompt: Prompt) -> Sequence[Trajectory]:
        return list(self._shelf.of(prompt).values())

    def __len__(self) -> int:
        return len(self._order)

    def state_dict(self) -> State:
        return {"shelf": self._shelf.state_dict(), "order": list(self._order)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shelf.load_state_dict(state["shelf"])
        self._order = deque(state["order"])


class Ring:
    """Keeps what it gives, newest first; the oldest fall off.

    Args:
        capacity: most trajectories.
    """

    def __init__(self, capacity: Count = 4096) -> None:
        self.capacity = checked(capacity)
        self._shelf = Shelf()

    @property
    def dropped(self) -> int:
        return self._shelf.dropped

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        _append(self._shelf, trajectories, self.capacity)

    def sample(self, count: int) -> Sequence[Trajectory]:
        return list(islice(reversed(self._shelf.items.values()), count))

    def matching(self, prompt: Prompt) -> Sequence[Trajectory]:
        return list(self._shelf.of(prompt).values())

    def __len__(self) -> int:
        return len(self._shelf.items)

    def state_dict(self) -> State:
        return self._shelf.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shelf.load_state_dict(state)


class ByPrompt:
    """So many trajectories of every prompt, for replay by prompt; keeps what it gives.

    ARPO keeps the 8 newest successes of a task (dvlab-research/ARPO at 7489ae30), RePO the 16
    newest responses of a prompt (SihengLi99/RePO at 119fef69). `sample` gives the newest first.

    Args:
        per_prompt: most trajectories of one prompt.
        drop: which one makes room: the oldest, or the oldest of those with the lowest reward.
    """

    def __init__(
        self, per_prompt: Count = 8, drop: Literal["oldest", "lowest_reward"] = "oldest"
    ) -> None:
        self.per_prompt = checked(per_prompt)
        self.drop = drop
        self._shelf = Shelf()

    @property
    def dropped(self) -> int:
        return self._shelf.dropped

    def add(self, trajectories: Iterable[Trajectory]) -> None:
        for trajectory in trajectories:
            self._shelf.put(trajectory)
            same = self._shelf.of(trajectory.prompt)
            if self.per_prompt is not None and len(same) > self.per_prompt:
                self._shelf.drop(self._leaving(same))

    def sample(self, count: int) -> Sequence[Trajectory]:
        return list(islice(reversed(self._shelf.items.values()), count))

    def matching(self, prompt: Prompt) -> Sequence[Trajectory]:
        return list(self._shelf.of(prompt).values())

    def __len__(self) -> int:
        return len(self._shelf.items)

    def state_dict(self) -> State:
        return self._shelf.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shelf.load_state_dict(state)

    def _leaving(self, same: Mapping[int, Trajectory]) -> int:
        if self.drop == "oldest":
            return next(iter(same))
        return min(same, key=lambda number: signal(same[number], "reward", "by_prompt"))


def _append(shelf: Shelf, trajectories: Iterable[Trajectory], capacity: int | None) -> None:
    for trajectory in trajectories:
        shelf.put(trajectory)
        if capacity is not None and len(shelf.items) > capacity:
            shelf.drop(shelf.oldest())
