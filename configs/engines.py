"""From the parts of a recipe to live engines: models, learners, generators, evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from didact.configs.assemble import Parts
from didact.configs.build import Builder
from didact.configs.checks import nested
from didact.configs.counts import rows_of
from didact.configs.memory import chosen, loaded
from didact.configs.rendering import make_renderer
from didact.configs.schema import EvaluationSpec, Recipe
from didact.core import world as worlds
from didact.core.backends import engines, lora
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer
from didact.core.backends.optim import OptimizerSpec
from didact.core.errors import RecipeError
from didact.core.evaluate import Evaluation
from didact.core.pipeline import Pipeline
from didact.core.protocols import Generator, Learner, Reader, Run, World
from didact.core.score import Score
from didact.core.stages import Rollout
from didact.plugins.registry import Registry
from didact.plugins.spec import Source


@dataclass(frozen=True)
class Opened:
    """A recipe made ready to run or to evaluate: engines up, nothing trained yet."""

    recipe: Recipe
    parts: Parts
    run: Run
    evaluation: Evaluation | None
    registry: Registry


def open_recipe(
    recipe: Recipe,
    parts: Parts,
    registry: Registry,
    policy: ModelSpec,
    start: ModelSpec | None = None,
) -> Opened:
    """Load models and start engines.

    Args:
        policy: the model to begin with.
        start: what its training started from, for `ref`; None: the same.
    """
    if policy.follows_policy:
        raise RecipeError("models.policy: name its weights with 'path' or 'config'.")
    engines.keep_freed_memory()
    world = worlds.current()
    builder = Builder(registry)
    start = start or policy
    specs = {name: spec.following(start) for name, spec in recipe.models.items()}
    specs["policy"] = policy
    specs |= {"ref": start} if "ref" in parts.reads and "ref" not in specs else {}
    tokenizer = load_tokenizer(policy)
    evaluation = make_evaluation(recipe.evaluation, parts, builder) if recipe.evaluation else None
    tasks = [parts.task, evaluation.task] if evaluation else [parts.task]
    renderer = make_renderer(recipe.prompt, tokenizer, tasks)
    apart = loaded(recipe, specs, parts)
    auto = chosen(recipe, apart, rows_of(recipe, parts))
    engine = partial(_learner, recipe=recipe, builder=builder, tokenizer=tokenizer, auto=auto)
    generators = {  # before any weights are loaded: what cannot work is refused here
        name: _generator(name, specs[name], recipe, builder, tokenizer, world)
        for name in sorted(recipe.trained)
        if specs[name].kind == "causal"
    }
    models = {name: _model(specs[name], tokenizer) for name in sorted(recipe.trained)}
    learners = {
        name: engine(name, model, optimizers=recipe.optimizers) for name, model in models.items()
    }
    frozen: dict[str, Reader] = {}
    for name in sorted(specs.keys() & parts.reads.keys() - recipe.trained):
        if name in apart:
            frozen[name] = engine(name, load_model(specs[name], tokenizer), optimizers={})
        else:
            frozen[name] = lora.WithoutAdapters(learners["policy"], models["policy"])
    for learner in learners.values():
        learner.rest()
    for name, generator in generators.items():
        generator.resume(learners[name], 0)
    run = Run(
        seed=recipe.seed,
        generators=generators,
        learners=learners,
        frozen=frozen,
        buffers=parts.buffers,
        renderer=renderer,
        world=world,
        sampler=parts.sampler,
        sampling=recipe.sampling.made(),
    )
    return Opened(recipe, parts, run, evaluation, registry)


def _model(spec: ModelSpec, tokenizer: Any) -> nn.Module:
    """A model that will learn, or whose adapters will."""
    model = load_model(spec, tokenizer)
    return lora.adapted(model, spec.lora, spec.seed) if spec.lora is not None else model


def _learner(
    name: str,
    model: nn.Module,
    *,
    optimizers: Mapping[str, OptimizerSpec],
    recipe: Recipe,
    builder: Builder,
    tokenizer: Any,
    auto: Mapping[str, bool],
) -> Learner:
    """A learner; one without optimizers is only read out."""
    learner: Learner = builder.part(
        recipe.learner,
        f"models.{name}",
        model=model,
        tokenizer=tokenizer,
        optimizers=optimizers,
        temperature=recipe.sampling.temperature or 1.0,
        world=worlds.current(),
        **auto,
    )
    return learner


def _generator(
    name: str,
    spec: ModelSpec,
    recipe: Recipe,
    builder: Builder,
    tokenizer: Any,
    world: World,
) -> Generator:
    factory = builder.registry.get("generator", recipe.generator.use).factory
    served: dict[str, Any] = {"spec": spec}
    if "spec" not in inspect.signature(factory).parameters:  # it needs the module itself
        served = {"model": load_model(spec, tokenizer)}
    generator: Generator = builder.part(
        recipe.generator,
        f"generator.{name}",
        **served,
        tokenizer=tokenizer,
        temperature=recipe.sampling.temperature or 1.0,
        world=world,
        sampling=recipe.sampling.made(),
    )
    return generator


def make_evaluation(spec: EvaluationSpec, parts: Parts, builder: Builder) -> Evaluation:
    """A recipe's evaluation: its problems, and a pipeline each for greedy and sampled answers."""
    sampling = spec.sampling.model_dump(exclude_unset=True) if spec.sampling else {}
    trained = [s for _, _, s in nested(parts.experience.stages) if isinstance(s, Score)]
    score = trained[-1] if trained else Score(parts.rewards)

    def pipeline(**settings: Any) -> Pipeline:
        context = {"registry": builder.registry}
        use = Source.model_validate({"use": "policy", **sampling, **settings}, context=context)
        return Pipeline([("rollout", Rollout(builder.part(use, "evaluation"))), ("score", score)])

    task = builder.part(spec.task, "evaluation.task")
    for key in spec.by:
        if not any(key in task[at].metadata for at in range(len(task))):
            there = ", ".join(sorted(task[0].metadata)) or "none"
            raise RecipeError(f"evaluation.by: no problem has metadata '{key}' (has: {there}).")
    return Evaluation(
        task=task,
        greedy=pipeline(n=1, temperature=0.0) if spec.greedy else None,
        sampled=pipeline(n=spec.samples) if spec.samples else None,
        every=spec.every,
        sampled_every=spec.samples_every,
        ks=spec.ks,
        by=spec.by,
        bins=spec.bins,
        kl=spec.kl,
    )
