"""`didact plan`: what a recipe would do, told without loading any weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from didact.configs.assemble import Parts, assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.configs.resolve import as_yaml, resolved
from didact.configs.schema import Recipe
from didact.core.backends.models import ModelSpec
from didact.core.errors import RecipeError
from didact.core.pipeline import listed
from didact.core.stages import Rollout
from didact.plugins.manager import load

GIB = 2**30


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
    per_prompt = sum(
        int(getattr(stage.source, "n", 1))
        for _, stage in parts.experience.stages
        if isinstance(stage, Rollout)
    )
    most = prompts * per_prompt if prompts else None
    yield f"{prompts} prompts a step, at most {per_prompt} trajectories each: {most} trajectories"
    for phase in parts.phases:
        rows = phase.draw or most
        size = phase.batch_size or rows
        steps = phase.epochs * (ceil(rows / size) if rows and size else 1)
        when = phase.when
        yield (
            f"phase {phase.name}: at most {rows} rows, {steps} optimizer step(s) of at most {size} "
            f"rows; fires with >= {when.at_least} waiting, every {when.every} step(s) "
            f"from {when.first} to {when.last}"
        )


def _models(recipe: Recipe, parts: Parts) -> Iterator[str]:
    policy = recipe.models.get("policy")
    if policy is None and recipe.base is not None:
        yield f"policy: made by recipe '{recipe.base}' (cached); counted by its configuration"
        policy = check(read(recipe.base), load()).models.get("policy")
    if policy is None:
        raise RecipeError("models.policy: is required, unless 'base' names a recipe that makes it.")
    yield from _memory("policy", policy, trained=True, optimizers=len(recipe.optimizers))
    for phase in parts.phases:
        if phase.model != "policy":
            yield f"{phase.model}: learns in phase {phase.name}"
    for name, readers in sorted(parts.reads.items()):
        yield f"{name}: loads because of {'; '.join(readers)}"
        if name not in {phase.model for phase in parts.phases}:
            spec = recipe.models.get(name, policy).following(policy)
            yield from _memory(name, spec, trained=False, optimizers=0)
    if "ref" not in parts.reads:
        yield "ref: not loaded, nothing reads ref_logprobs"


def _memory(name: str, spec: ModelSpec, *, trained: bool, optimizers: int) -> Iterator[str]:
    count = parameters(spec)
    if count is None:
        yield f"{name}: {spec.path}: its configuration is not on this machine; size unknown"
        return
    width = 2 if spec.dtype == "bfloat16" else 4
    weights = count * width
    states = count * (4 * (width == 2) + width + 8 * optimizers) if trained else 0
    engine = weights if trained else 0
    total = (weights + states + engine) / GIB
    yield (
        f"{name}: {count:,} parameters; {weights / GIB:.3f} GiB weights, {states / GIB:.3f} GiB "
        f"gradients, masters and {optimizers} optimizer(s), {engine / GIB:.3f} GiB generator: "
        f"{total:.3f} GiB before activations and KV cache"
    )


def parameters(spec: ModelSpec) -> int | None:
    """Number of parameters, tied ones once, from the configuration alone; None if there is none."""
    config: Any
    if spec.config is not None:
        from transformers import AutoConfig

        from didact.core.backends.models import load_tokenizer

        size = spec.config.get("vocab_size") or len(load_tokenizer(spec))
        config = AutoConfig.for_model(**{**spec.config, "vocab_size": size})
    else:
        file = Path(str(spec.path)).expanduser()
        if not file.is_dir():
            return None
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(file)
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(int(p.numel()) for p in model.parameters())
