"""From a checked recipe to the parts of a run, and the checks that need to see several parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from didact.configs.build import Builder
from didact.configs.document import Document, Spot
from didact.configs.schema import PhaseSpec, Recipe
from didact.core.errors import RecipeError, unknown
from didact.core.phase import Phase, readout_of
from didact.core.pipeline import Pipeline, listed, makers, missing_inputs
from didact.core.protocols import Names, ReplayBuffer, Sampler, Stage, Stateful, TaskSource
from didact.core.score import Rewards, Weighted
from didact.plugins.registry import Registry


@dataclass(frozen=True)
class Parts:
    """What a recipe describes, apart from models: everything that is cheap to make.

    Attributes:
        stateful: parts whose state a checkpoint holds, by their path in the recipe.
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
    problems = [*_stage_problems(recipe, stages), *_phase_problems(recipe, stages, phases)]
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
        reads=_reads(recipe, stages, phases),
    )


def _label(verb: str, spec: Any) -> str:
    part = next((v for _, v in spec.params if hasattr(v, "use")), None)
    return f"{verb}: {part.use}" if part is not None else verb


def _told(document: Document | None, spot: Spot, text: str) -> str:
    path = ".".join(map(str, spot))
    return f"{document.place(spot)}: {path}: {text}" if document else f"{path}: {text}"


def _stage_problems(recipe: Recipe, stages: list[tuple[str, Stage]]) -> Iterator[tuple[Spot, str]]:
    for position, message in missing_inputs(stages):
        yield ("experience", position), message
    for position, (label, stage) in enumerate(stages):
        columns = getattr(stage, "columns", ()) if recipe.staleness else ()
        moving = {"", "old", *(spec.model for spec in recipe.phases.values())}
        if any((readout_of(column) or ("-",))[0] in moving for column in columns):
            yield (
                ("experience", position),
                f"'{label}' reads a model that another thread updates; with 'staleness: 1' only "
                f"models that stay as they are can be read.",
            )
        for part in (stage, *vars(stage).values()):
            name = getattr(part, "buffer", None)
            if isinstance(name, str) and name not in recipe.buffers:
                yield ("experience", position), unknown("buffer", name, recipe.buffers)
        if getattr(stage, "rewards", None) == {}:
            yield ("experience", position), "there is nothing to score: give the recipe 'rewards:'."
    if stages and not any(getattr(s, "adds", frozenset()) & {"members"} for _, s in stages):
        yield ("experience",), "no stage makes trajectories; begin with 'rollout'."


def _phase_problems(
    recipe: Recipe, stages: list[tuple[str, Stage]], phases: list[Phase]
) -> Iterator[tuple[Spot, str]]:
    added: Names = frozenset().union(*(stage.adds for _, stage in stages))
    models = {"policy", "ref", *recipe.models}
    for phase in phases:
        spot: Spot = ("phases", phase.name)
        yield from _rule_problems(phase, added, models)
        missing = phase.take.needs - added
        if missing:
            yield (*spot, "take"), f"no stage adds {listed(missing)}.{makers(missing)}"
        if phase.optimizer not in recipe.optimizers:
            yield (*spot, "optimizer"), unknown("optimizer", phase.optimizer, recipe.optimizers)
        if phase.model not in models - {"ref"}:
            yield (*spot, "model"), unknown("model", phase.model, models - {"ref"})
        yield from _size_problems(spot, recipe.phases[phase.name])


def _rule_problems(phase: Phase, added: Names, models: set[str]) -> Iterator[tuple[Spot, str]]:
    spot: Spot = ("phases", phase.name, "rule")
    for column in sorted(phase.rule.needs - added - {"mask", "age"}):
        split = readout_of(column)
        if split is None:
            yield spot, f"reads '{column}', but no stage of 'experience' adds it.{makers({column})}"
        elif split[0] not in ("", "old") and split[0] not in models:
            yield spot, f"reads '{column}': {unknown('model', split[0], models)}"


def _size_problems(spot: Spot, spec: PhaseSpec) -> Iterator[tuple[Spot, str]]:
    if spec.draw is not None and spec.when.at_least > 1 and spec.draw > spec.when.at_least:
        yield (
            (*spot, "draw"),
            f"draws {spec.draw} rows but fires with {spec.when.at_least} waiting; "
            f"raise 'when.at_least' to {spec.draw} or draw fewer.",
        )


def _reads(
    recipe: Recipe, stages: list[tuple[str, Stage]], phases: list[Phase]
) -> dict[str, list[str]]:
    readers = [(f"phases.{phase.name}", phase.rule.needs) for phase in phases]
    readers += [
        (f"experience.{at} ({label})", frozenset(getattr(stage, "columns", ())))
        for at, (label, stage) in enumerate(stages)
    ]
    if recipe.evaluation is not None and recipe.evaluation.kl:
        readers.append(("evaluation.kl", frozenset({"ref_logprobs"})))
    reads: dict[str, list[str]] = {}
    for who, columns in readers:
        for column in sorted(columns):
            split = readout_of(column)
            if split is not None and split[0] not in ("", "old"):
                reads.setdefault(split[0], []).append(f"{who}: {column}")
    return reads
