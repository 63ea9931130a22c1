"""From a checked recipe to the parts of a run, and the checks that need to see several parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from didact.configs.build import Builder
from didact.configs.checks import misfits, notices, reads
from didact.configs.document import Document, Spot
from didact.configs.schema import Recipe
from didact.core.errors import RecipeError
from didact.core.phase import Phase
from didact.core.pipeline import Pipeline
from didact.core.protocols import ReplayBuffer, Sampler, Stage, Stateful, TaskSource
from didact.core.score import Rewards, Weighted
from didact.plugins.registry import Registry


@dataclass(frozen=True)
class Parts:
    """What a recipe describes, apart from models: everything that is cheap to make.

    Attributes:
        stateful: parts whose state a checkpoint holds, by their path in the recipe.
        notices: what is allowed, and may not be meant.
        reads: for each model prefix ("ref", …) who reads it, e.g. "phases.rl: ref_logprobs".
    """

    experience: Pipeline
    phases: list[Phase]
    buffers: Mapping[str, ReplayBuffer]
    task: TaskSource
    sampler: Sampler
    rewards: Rewards
    stateful: Mapping[str, Stateful]
    reads: Mapping[str, list[str]]
    notices: Sequence[str]


def assemble(recipe: Recipe, registry: Registry, document: Document | None = None) -> Parts:
    """Make the parts and check how they fit together, before any model is loaded.

    Raises:
        RecipeError: every misfit, one a line, with the place in the file if `document` is given.
    """
    builder = Builder(registry)
    problems: list[str] = []
    placed = partial(_placed, problems, document)
    rewards: dict[str, Weighted] = {}
    for name, spec in recipe.rewards.items():
        with placed("rewards", name):
            made = builder.part(spec, f"rewards.{name}")
            rewards[name] = Weighted(made, spec.weight, spec.offset)
    stages: list[tuple[str, Stage]] = []
    for at, verb in enumerate(recipe.experience):
        with placed("experience", at):
            stage = builder.part(verb, f"experience.{at}", rewards=rewards)
            stages.append((_label(verb.use, verb), stage))
    phases: list[Phase] = []
    for name, phase in recipe.phases.items():
        with placed("phases", name):
            phases.append(builder.phase(name, phase))
    buffers: dict[str, ReplayBuffer] = {}
    for name, buffer in recipe.buffers.items():
        with placed("buffers", name):
            buffers[name] = builder.part(buffer, f"buffers.{name}")
    if not problems:
        problems += [_told(document, *found) for found in misfits(recipe, stages, phases)]
    _refuse(problems)
    with placed("task"):
        task: TaskSource = builder.part(recipe.task, "task")
    _refuse(problems)
    with placed("sampler"):
        sampler: Sampler = builder.part(recipe.sampler, "sampler", task=task, seed=recipe.seed)
    _refuse(problems)
    return Parts(
        experience=Pipeline(stages),
        phases=phases,
        buffers=buffers,
        task=task,
        sampler=sampler,
        rewards=rewards,
        stateful=builder.stateful,
        reads=reads(recipe, stages, phases),
        notices=list(notices(recipe, stages, phases)),
    )


def _label(verb: str, spec: Any) -> str:
    part = next((v for _, v in spec.params if hasattr(v, "use")), None)
    return f"{verb}: {part.use}" if part is not None else verb


@contextmanager
def _placed(problems: list[str], document: Document | None, *spot: str | int) -> Iterator[None]:
    """Collect what is wrong with a part, with the place of the part in the recipe."""
    try:
        yield
    except RecipeError as error:
        problems.append(_told(document, spot, str(error)))


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise RecipeError("\n".join(problems))


def _told(document: Document | None, spot: Spot, text: str) -> str:
    path = ".".join(map(str, spot))
    if text.startswith((f"{path}:", f"{path}.")):  # it says itself where, maybe more exactly
        inner = text.partition(":")[0].split(".")
        spot = tuple(int(key) if key.isdigit() else key for key in inner)
    else:
        text = f"{path}: {text}"
    return f"{document.place(spot)}: {text}" if document else text
