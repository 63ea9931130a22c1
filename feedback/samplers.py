"""Samplers without a curriculum: every problem once per epoch, shuffled or in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from didact.core.errors import RecipeError, RunError
from didact.core.protocols import State, TaskSource
from didact.core.ranges import Count
from didact.core.seeds import seed_of
from didact.core.types import Group, Problem
from didact.feedback.permutation import permuted


@dataclass
class Shuffled:
    """Every problem once per epoch, in an order that is new in each epoch.

    The order is computed, not stored, so a task may have any number of problems. `draw` simply
    goes on, however often it is called in a step. A problem that comes up twice in one draw (the
    end of an epoch and the beginning of the next) waits for the next draw.

    Args:
        prompts: problems per draw.
        seed: of the orders.
    """

    task: TaskSource = field(repr=False)
    prompts: Count = 16
    seed: int = 0
    _position: int = field(default=0, init=False)
    _waiting: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        check_prompts(self.task, self.prompts)

    def draw(self, step: int) -> Sequence[Problem]:
        chosen: list[int] = []
        waiting: list[int] = []
        for index in self._waiting:
            (waiting if index in chosen or len(chosen) == self.prompts else chosen).append(index)
        while len(chosen) < self.prompts:
            index = self._next()
            (waiting if index in chosen else chosen).append(index)
        self._waiting = waiting
        return [self.task[index] for index in chosen]

    def _next(self) -> int:
        epoch, place = divmod(self._position, len(self.task))
        self._position += 1
        return permuted(place, len(self.task), "shuffled", self.seed, epoch)

    def observe(self, groups: Sequence[Group]) -> None:
        """Learns nothing from how it went."""

    def state_dict(self) -> State:
        return {
            "size": len(self.task),
            "position": self._position,
            "waiting": list(self._waiting),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self._position = _position(self.task, state)
        waiting = state["waiting"]
        self._waiting = [int(index) for index in waiting] if isinstance(waiting, list) else []


@dataclass
class Ordered:
    """The problems in the order of the task, again and again, from a place the seed decides.

    Args:
        prompts: problems per draw.
        seed: of the place to begin; 0 begins with the first problem.
    """

    task: TaskSource = field(repr=False)
    prompts: Count = 16
    seed: int = 0
    _position: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_prompts(self.task, self.prompts)
        if self.seed:
            draws = len(self.task) // self.prompts
            self._position = self.prompts * (seed_of("ordered", self.seed) % draws)

    def draw(self, step: int) -> Sequence[Problem]:
        first = self._position
        self._position += self.prompts
        return [self.task[at % len(self.task)] for at in range(first, self._position)]

    def observe(self, groups: Sequence[Group]) -> None:
        """Learns nothing from how it went."""

    def state_dict(self) -> State:
        return {"size": len(self.task), "position": self._position}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self._position = _position(self.task, state)


def check_prompts(task: TaskSource, prompts: int) -> None:
    """A step draws some of the task's problems, none twice."""
    if not 0 < prompts <= len(task):
        raise RecipeError(
            f"sampler: 'prompts' is {prompts}, but the task has {len(task)} problems; "
            f"choose from 1 to {len(task)}."
        )


def check_size(task: TaskSource, state: Mapping[str, object]) -> None:
    """A checkpoint's places are those of a task of the same size."""
    if state["size"] != len(task):
        raise RunError(
            f"sampler: the checkpoint was written with a task of {state['size']} problems, this "
            f"one has {len(task)}; give the run its task back, or start a new run."
        )


def _position(task: TaskSource, state: Mapping[str, object]) -> int:
    check_size(task, state)
    position = state["position"]
    if not isinstance(position, int):
        raise RunError(f"sampler: the checkpoint's position is {position!r}, not a whole number.")
    return position
