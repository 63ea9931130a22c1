"""Reasoning-gym's data sets as tasks, and their own scoring as a reward."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from didact.core.errors import RecipeError, RewardError, unknown
from didact.core.ranges import Count
from didact.core.types import Problem, Trajectory
from didact.feedback.tasks.procedural import SPLITS, Split, in_range

STRIDE = 10_000_000
"""Distance between the seeds of the splits: item i of reasoning-gym is drawn with seed + i."""


@dataclass(frozen=True)
class Gym:
    """A data set of reasoning-gym by name; needs `pip install 'didact[gym]'`.

    Problem i of the train split is item i of `reasoning_gym.create_dataset(dataset, seed=seed)`.
    The other splits use seeds far away, so no item is drawn twice; two draws may still make the
    same puzzle where a data set has few. Seeds closer than `size` share items. There are no
    demonstrations. Score with the reward `gym_answer`.

    Args:
        dataset: its name, e.g. `countdown`.
        settings: of the data set, e.g. `{min_numbers: 3}`.
        split: which seeds.
        size: number of problems, at most ten million.
        seed: of the first item.
        template: what the model is asked, around `{question}`.
    """

    dataset: str
    settings: Mapping[str, Any] | None = None
    split: Split = "train"
    size: Count = 10_000
    seed: int = 0
    template: str = "{question}"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise RecipeError(f"gym: {unknown('split', self.split, SPLITS)}")
        if not 1 <= self.size <= STRIDE:
            raise RecipeError(f"gym: 'size' is {self.size}; it must be from 1 to {STRIDE}.")
        try:
            framed = self.template.format(question="?")
        except (KeyError, IndexError, ValueError) as error:
            raise RecipeError(
                f"gym: the template {self.template!r} cannot be filled: {error!r}. "
                "It may name {question}; write other braces twice."
            ) from None
        if "?" not in framed:
            raise RecipeError("gym: the template must name {question}.")
        _dataset(*self._recipe)

    @property
    def _recipe(self) -> tuple[str, str, int, int]:
        first = self.seed + STRIDE * SPLITS.index(self.split)
        return self.dataset, json.dumps(self.settings or {}, sort_keys=True), first, self.size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Problem:
        in_range(index, self.size, "gym")
        name, settings, first, size = self._recipe
        entry = _entry(name, settings, first, size, index)
        difficulty = json.dumps(entry["metadata"].get("difficulty", {}), default=str)
        suffix = "" if settings == "{}" else settings
        return Problem(
            id=f"gym/{name}{suffix}/{self.split}/{first + index}",
            question=self.template.format(question=entry["question"]),
            answer=entry["answer"],
            metadata={
                "family": "gym",
                "dataset": name,
                "difficulty": json.loads(difficulty),
                "gym": [name, settings, first, size, index],
            },
        )


def gym_answer(trajectory: Trajectory, *, tag: str | None = "answer", exact: bool = False) -> float:
    """The data set's own score of the answer, from 0 to 1; 0 if the response was cut off.

    Many data sets give a little for trying (0.01 for nothing at all in countdown, 0.05 for a wrong
    value), so count a success only at 1, which is the default of the score stage.

    Args:
        tag: the answer is the last `<answer>` block; null: it is the whole response.
        exact: 1 if the score is at least 0.999, otherwise 0.
    """
    metadata = trajectory.prompt.problem.metadata
    if "gym" not in metadata:
        raise RewardError(
            f"problem '{trajectory.prompt.id}' is not of the task 'gym' "
            f"(its metadata: {', '.join(sorted(metadata)) or 'none'})."
        )
    if trajectory.truncated:
        return 0.0
    name, settings, first, size, index = metadata["gym"]
    extract = _gym().utils.extract_answer
    answer = trajectory.text if tag is None else extract(trajectory.text, tag_name=tag)
    entry = _entry(name, settings, first, size, index)
    score = float(_dataset(name, settings, first, size).score_answer(answer=answer, entry=entry))
    return float(score >= 0.999) if exact else score


def _gym() -> ModuleType:
    try:
        import reasoning_gym
        import reasoning_gym.utils
    except ImportError as error:
        raise RecipeError(
            f"task 'gym' needs reasoning-gym, which cannot be imported ({error}); "
            "run: pip install 'didact[gym]'"
        ) from None
    module: ModuleType = reasoning_gym
    return module


@lru_cache(maxsize=64)
def _dataset(name: str, settings: str, first: int, size: int) -> Any:
    """The data set, made once.

    Raises:
        RecipeError: there is none of that name, or it refuses its settings.
    """
    gym = _gym()
    known = gym.factory.DATASETS
    if name not in known:
        raise RecipeError(f"gym: {unknown('data set', name, known)}")
    try:
        return gym.create_dataset(name, seed=first, size=size, **json.loads(settings))
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(f"gym: data set '{name}' refuses {settings}: {error}") from None


@lru_cache(maxsize=4096)
def _entry(name: str, settings: str, first: int, size: int, index: int) -> Any:
    return _dataset(name, settings, first, size)[index]
