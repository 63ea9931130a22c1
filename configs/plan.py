"""`didact plan`: what a recipe would do, told without loading any weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

from didact.configs.assemble import Parts, assemble
from didact.configs.counts import fired, of_recipe, rows_of
from didact.configs.document import read
from didact.configs.load import check
from didact.configs.memory import loaded, predicted, shape_of, told
from didact.configs.resolve import as_yaml, resolved
from didact.configs.schema import Recipe
from didact.core.backends.models import ModelSpec
from didact.core.errors import RecipeError
from didact.core.pipeline import listed
from didact.core.where import EVERYTHING
from didact.plugins.manager import load


def print_plan(source: str | Path, overrides: Sequence[str] = ()) -> None:
    """Print the plan of a recipe to standard output."""
    print("\n".join(plan(source, overrides)))


def plan(source: str | Path, overrides: Sequence[str] = ()) -> Iterator[str]:
    """The resolved recipe, its stages, batches, models and memory, line by line."""
    registry = load()
    document = read(source, overrides)
    recipe = check(document, registry)
    parts = assemble(recipe, registry, document)
    yield "# recipe, resolved"
    yield as_yaml(resolved(recipe))
    yield "# a step"
    yield from _stages(recipe, parts)
    yield "\n# batches"
    yield from _batches(recipe, parts)
    yield from (f"note: {notice}" for notice in parts.notices)
    yield "\n# models"
    yield from _models(recipe, parts)


def _stages(recipe: Recipe, parts: Parts) -> Iterator[str]:
    for label, stage in parts.experience.stages:
        yield f"{label:32} needs {listed(stage.needs) or '-'}; adds {listed(stage.adds) or '-'}"
    for phase in parts.phases:
        reads = listed(phase.rule.needs)
        what = f"learns '{phase.model}' with '{phase.optimizer}'; reads {reads}"
        yield f"phase {phase.name:26} {what}"


def _batches(recipe: Recipe, parts: Parts) -> Iterator[str]:
    prompts = getattr(recipe.sampler.params, "prompts", None)
    found = of_recipe(recipe, parts)
    rows = found.rows
    yield (
        f"{prompts} prompts a step; at most {found.groups} groups of at most {found.members} "
        f"trajectories: {rows}"
    )
    yield from (f"not counted: {what}" for what in found.unknown)
    for phase in parts.phases:
        drawn = phase.draw if rows is None else fired(phase, rows)
        size = phase.batch_size or drawn
        steps = phase.epochs * (ceil(drawn / size) if drawn and size else 1)
        when = phase.when
        some = "" if phase.take == EVERYTHING else f" that match {phase.take.root}"
        yield (
            f"phase {phase.name}: at most {drawn} rows{some}, {steps} optimizer step(s) of at most "
            f"{size} rows; fires with >= {when.at_least} waiting, every {when.every} step(s) "
            f"from {when.first} to {when.last}"
        )


def _models(recipe: Recipe, parts: Parts) -> Iterator[str]:
    policy = recipe.models.get("policy")
    if recipe.base is not None:
        yield f"policy: made by recipe '{recipe.base}' (cached); counted by its configuration"
        base = check(read(recipe.base), load()).models.get("policy")
        policy = (policy or ModelSpec()).following(base) if base else None
    if policy is None:
        raise RecipeError("models.policy: is required, unless 'base' names a recipe that makes it.")
    for phase in parts.phases:
        if phase.model != "policy":
            yield f"{phase.model}: learns in phase {phase.name}"
    for name, readers in sorted(parts.reads.items()):
        yield f"{name}: loads because of {'; '.join(readers)}"
    if "ref" not in parts.reads:
        yield "ref: not loaded, nothing reads ref_logprobs"
    named = {name: spec.following(policy) for name, spec in recipe.models.items()}
    specs = loaded(recipe, {"ref": policy, **named, "policy": policy}, parts)
    for name in sorted(parts.reads.keys() - specs.keys()):
        yield f"{name}: is the policy with its adapters off, no model of its own"
    shapes = {name: shape_of(spec) for name, spec in specs.items()}
    for name, shape in shapes.items():
        if shape is None:
            where = specs[name].path
            yield f"{name}: {where}: its configuration is not on this machine; size unknown"
        else:
            learns = f", {shape.trained:,} of them learn" if name in recipe.trained else ""
            yield f"{name}: {shape.parameters:,} parameters{learns}"
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    if "policy" not in known:
        return
    yield "\n# memory of a process, GiB"
    yield from told(predicted(recipe, known, specs, rows_of(recipe, parts)))
