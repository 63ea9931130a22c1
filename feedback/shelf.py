"""What every buffer keeps its trajectories in: numbered by arrival, indexed by prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from didact.core.codec import decode, encode
from didact.core.errors import RecipeError
from didact.core.protocols import State
from didact.core.types import Prompt, Trajectory


class Shelf:
    """Trajectories numbered in order of arrival, and found by number or by prompt in O(1)."""

    def __init__(self) -> None:
        self.items: OrderedDict[int, Trajectory] = OrderedDict()
        self.dropped = 0
        self._next = 0
        self._by_prompt: dict[str, dict[int, Trajectory]] = {}

    def put(self, trajectory: Trajectory) -> int:
        """Number it and keep it."""
        number = self._next
        self._next += 1
        self._keep(number, trajectory)
        return number

    def take(self, number: int) -> Trajectory:
        """Remove it."""
        trajectory = self.items.pop(number)
        same = self._by_prompt[trajectory.prompt.id]
        del same[number]
        if not same:
            del self._by_prompt[trajectory.prompt.id]
        return trajectory

    def drop(self, number: int) -> None:
        """Remove it for want of room."""
        self.take(number)
        self.dropped += 1

    def of(self, prompt: Prompt) -> Mapping[int, Trajectory]:
        """Those of a prompt by number, oldest first."""
        return self._by_prompt.get(prompt.id, {})

    def oldest(self) -> int:
        return next(iter(self.items))

    def state_dict(self) -> State:
        return {
            "numbers": list(self.items),
            "items": encode(self.items.values()),
            "next": self._next,
            "dropped": self.dropped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.items, self._by_prompt = OrderedDict(), {}
        for number, trajectory in zip(state["numbers"], decode(state["items"]), strict=True):
            self._keep(number, trajectory)
        self._next, self.dropped = state["next"], state["dropped"]

    def _keep(self, number: int, trajectory: Trajectory) -> None:
        self.items[number] = trajectory
        self._by_prompt.setdefault(trajectory.prompt.id, {})[number] = trajectory


def signal(trajectory: Trajectory, name: str, who: str) -> float:
    """A signal that a buffer or source orders by; to lack it is an error, not a zero."""
    if name not in trajectory.signals:
        raise RecipeError(
            f"{who}: a trajectory of origin '{trajectory.origin}' (prompt "
            f"'{trajectory.prompt.id}') has no '{name}' (it has: "
            f"{', '.join(sorted(trajectory.signals)) or 'none'}); store it after the stage that "
            f"makes it."
        )
    return trajectory.signals[name]


def checked(size: int | None) -> int | None:
    """The size, if a buffer can have it."""
    if size is not None and size < 1:
        raise RecipeError(f"a buffer holds at least one trajectory, not {size}.")
    return size
