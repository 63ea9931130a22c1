"""From a checked recipe to the parts of a run, and the checks that need to see several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from didact.configs.build import Builder
from didact.configs.checks import misfits, notices, reads
from didact.configs.document import Document, Spot
from didact.configs.schema import Recipe
from didact.core.errors import RecipeError
from didact.core.phase import Phase
from didact.core.pipeline import Pipeline
from didact.core.protocols import ReplayBuffer, Sampler, Stateful, TaskSource
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
    rewards = {
        name: Weighted(builder.part(spec, f"rewards.{name}"), spec.weight, spec.offset)
        for name, spec in recipe.rewards.items()
    }
    stages = [
        (_label(spec.use, spec), builder.part(spec, f"experience.{at}", rewards=rewards))
        for at, spec in enumerate(recipe.experience)
    ]
    phases = [builder.phase(name, spec) for name, spec in recipe.phases.items()]
    buffers = {n: builder.part(spec, f"buffers.{n}") for n, spec in recipe.buffers.items()}
    problems = list(misfits(recipe, stages, phases))
    if problems:
        raise RecipeError("\n".join(_told(document, spot, text) for spot, text in problems))
    task = builder.part(recipe.task, "task")
    return Parts(
        experience=Pipeline(stages),
        phases=phases,
        buffers=buffers,
        task=task,
        sampler=builder.part(recipe.sampler, "sampler", task=task, seed=recipe.seed),
        rewards=rewards,
        stateful=builder.stateful,
        reads=reads(recipe, stages, phases),
        notices=list(notices(recipe, stages, phases)),
    )


def _label(verb: str, spec: Any) -> str:
    part = next((v for _, v in spec.params if hasattr(v, "use")), None)
    return f"{verb}: {part.use}" if part is not None else verb


def _told(document: Document | None, spot: Spot, text: str) -> str:
    path = ".".join(map(str, spot))
    return f"{document.place(spot)}: {path}: {text}" if document else f"{path}: {text}"
