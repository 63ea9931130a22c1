"""The checks that need to see several parts of a recipe at once, before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from didact.configs.document import Spot
from didact.configs.schema import EvaluationSpec, LossSpec, PhaseSpec, Recipe
from didact.core.errors import unknown
from didact.core.evaluate import BINS, Answered, measures
from didact.core.learned import Learned, learned_of
from didact.core.phase import OWN, Phase, readout_of
from didact.core.pipeline import listed, makers, missing_inputs
from didact.core.protocols import Names, Stage
from didact.core.score import Score

Labelled = tuple[str, Stage]


def misfits(
    recipe: Recipe, stages: Sequence[Labelled], phases: Sequence[Phase]
) -> Iterator[tuple[Spot, str]]:
    """Where and why parts do not fit together."""
    yield from _stage_problems(recipe, stages)
    yield from _phase_problems(recipe, stages, phases)
    yield from _model_problems(recipe)
    yield from _unused(recipe, stages, phases)
    yield from _evaluation_problems(recipe)
    yield from _rest_problems(recipe)


def reads(
    recipe: Recipe, stages: Sequence[Labelled], phases: Sequence[Phase]
) -> dict[str, list[str]]:
    """For each model prefix ("ref", ...) who reads it, e.g. "phases.rl: ref_logprobs"."""
    readers = [(f"phases.{phase.name}", phase.rule.needs) for phase in phases]
    readers += [
        (f"experience.{at} ({label})", frozenset(getattr(stage, "columns", ())))
        for at, label, stage in nested(stages)
    ]
    if recipe.evaluation is not None and recipe.evaluation.kl:
        readers.append(("evaluation.kl", frozenset({"ref_logprobs"})))
    found: dict[str, list[str]] = {}
    for who, columns in readers:
        for column in sorted(columns):
            split = readout_of(column)
            if split is not None and split[0] not in OWN:
                found.setdefault(split[0], []).append(f"{who}: {column}")
    return found


def notices(recipe: Recipe, stages: Sequence[Labelled], phases: Sequence[Phase]) -> Iterator[str]:
    """What is allowed, and may not be meant: two policies where one is expected, idle phases."""
    learner = recipe.sampling.temperature or 1.0
    for position, label, stage in nested(stages):
        heat = getattr(getattr(stage, "source", None), "temperature", None)
        if isinstance(heat, float) and heat not in (0.0, learner):
            yield (
                f"experience.{position}: '{label}' samples at temperature {heat}, the learner "
                f"reads log-probabilities at {learner}: ratios to the sampler's will not be 1."
            )
    reads_sampler = any("behavior_logprobs" in phase.rule.needs for phase in phases)
    if reads_sampler and (recipe.sampling.top_p < 1 or recipe.sampling.top_k > 0):
        yield (
            "sampling: top_p or top_k cut the sampler's distribution, the learner's is whole: "
            "ratios to 'behavior_logprobs' will not be 1."
        )
    for phase in phases:
        if phase.when.first >= recipe.steps:
            yield (
                f"phases.{phase.name}: never steps: its window begins with step "
                f"{phase.when.first} (counted from 0), the run has {recipe.steps}."
            )
        stale = phase.draw is not None or recipe.staleness
        if stale and not phase.rule.needs.isdisjoint({"old_logprobs"}) and not reads_sampler:
            yield (
                f"phases.{phase.name}: rows may be some updates old, and its rule takes the policy "
                f"before the update for the sampler; 'times: [truncated_is]' corrects for it, "
                f"'max_age' limits it."
            )


def nested(stages: Sequence[Labelled]) -> Iterator[tuple[int, str, Stage]]:
    """Every stage with the position and label of the top-level one it stands in."""
    for position, (label, stage) in enumerate(stages):
        yield position, label, stage
        inner: Sequence[Stage] = getattr(stage, "stages", ())
        for _, _, deeper in nested([(label, one) for one in inner]):
            yield position, label, deeper


def _stage_problems(recipe: Recipe, stages: Sequence[Labelled]) -> Iterator[tuple[Spot, str]]:
    for position, message in missing_inputs(stages):
        yield ("experience", position), message
    for position, label, stage in nested(stages):
        yield from _column_problems(recipe, position, label, getattr(stage, "columns", ()))
        solved = stage.solved_by if isinstance(stage, Score) else None
        if solved is not None and solved not in recipe.rewards:
            said = f"solved_by: {unknown('reward', solved, recipe.rewards)}"
            yield ("experience", position), said
        for part in (stage, *vars(stage).values()):
            name = getattr(part, "buffer", None)
            if isinstance(name, str) and name not in recipe.buffers:
                yield ("experience", position), unknown("buffer", name, recipe.buffers)
        if getattr(stage, "rewards", None) == {}:
            yield ("experience", position), "there is nothing to score: give the recipe 'rewards:'."
    if stages and not any(getattr(s, "adds", frozenset()) & {"members"} for _, s in stages):
        yield ("experience",), "no stage makes trajectories; begin with 'rollout'."


def _column_problems(
    recipe: Recipe, position: int, label: str, columns: Sequence[str]
) -> Iterator[tuple[Spot, str]]:
    moving = {"", "old", *(spec.model for spec in recipe.phases.values())}
    for column in columns:
        prefix = (readout_of(column) or ("",))[0]
        models = {"policy", "ref", *recipe.models}
        if readout_of(column) is None or prefix not in {"", "old", *models}:
            said = unknown("model", prefix or column.partition("_")[0], models)
            yield ("experience", position), f"'{label}' cannot read '{column}': {said}"
        elif recipe.staleness and prefix in moving:
            yield (
                ("experience", position),
                f"'{label}' reads a model that another thread updates; with 'staleness: 1' only "
                f"models that stay as they are can be read.",
            )


def _unused(
    recipe: Recipe, stages: Sequence[Labelled], phases: Sequence[Phase]
) -> Iterator[tuple[Spot, str]]:
    """Names that nothing uses are most likely misspelt."""
    if not recipe.phases:
        return
    optimizers = {phase.optimizer for phase in phases}
    for name in sorted(set(recipe.optimizers) - optimizers - {"main"}):
        yield ("optimizers", name), f"no phase steps it; they step {listed(optimizers)}."
    models = {"policy", *reads(recipe, stages, phases), *(phase.model for phase in phases)}
    for name in sorted(set(recipe.models) - models):
        yield (
            ("models", name),
            f"nothing uses it: no phase trains it, and nothing reads a column '{name}_…'.",
        )
    words = set(_words(recipe.model_dump(mode="json", exclude={"buffers", "about"})))
    for name in sorted(set(recipe.buffers) - words):
        yield ("buffers", name), "no part of the recipe names it."


def _words(data: Any) -> Iterator[str]:
    """Every text in plain data, keys aside."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping | list):
        for item in data.values() if isinstance(data, Mapping) else data:
            yield from _words(item)


def _evaluation_problems(recipe: Recipe) -> Iterator[tuple[Spot, str]]:
    spec, stop = recipe.evaluation, recipe.stop
    if stop is not None and (spec is None or not spec.every):
        yield ("stop",), "needs an evaluation during training: set 'evaluation.every'."
    if spec is None:
        return
    if stop is not None:
        names = _metrics(spec)
        if re.sub("=.*", "=…", stop.metric) not in names and stop.metric not in names:
            yield ("stop", "metric"), unknown("metric", stop.metric, names)
    for k in spec.ks:
        if k > max(spec.samples, 1) and "ks" in spec.model_fields_set:
            yield ("evaluation", "ks"), f"pass@{k} is undefined for {spec.samples} samples."
    if spec.bins and not spec.samples:
        yield ("evaluation", "bins"), "base difficulty is measured on 'samples': there are 0."
    given = spec.sampling.model_dump(exclude_unset=True) if spec.sampling else {}
    drawn = {**recipe.sampling.model_dump(exclude={"max_tokens"}), **given}
    plain = {"temperature": recipe.sampling.temperature or 1.0, "top_p": 1.0, "top_k": 0}
    if spec.kl and spec.samples and any(drawn[name] != value for name, value in plain.items()):
        yield (
            ("evaluation", "kl"),
            f"needs answers drawn by {plain}, not {drawn}; set 'kl: false', or sample so.",
        )


def _metrics(spec: EvaluationSpec) -> set[str]:
    """What an evaluation during training reports, `eval/greedy/level=…`."""
    samples = spec.samples if spec.samples_every or not spec.greedy else 0
    greedy = 0.0 if spec.greedy else None
    answered = Answered("", "", "", {}, greedy, (0.0,) * samples, ("",), (0,), (0.0,), 0)
    bins = [f"/bin={name}" for name in BINS] if spec.bins else []
    suffixes = ["", *(f"/{key}=…" for key in spec.by), *bins]
    names = {f"eval/{name}{at}" for name in measures([answered], spec.ks) for at in suffixes}
    return names | {"eval/failed"} | ({"eval/kl_start"} if spec.kl and samples else set())


def _phase_problems(
    recipe: Recipe, stages: Sequence[Labelled], phases: Sequence[Phase]
) -> Iterator[tuple[Spot, str]]:
    added: Names = frozenset().union(*(stage.adds for _, stage in stages))
    models = {"policy", "ref", *recipe.models}
    yield from _learned_problems(recipe, phases, added)
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
        yield from _average_problems(spot, recipe.phases[phase.name], phase)


def _rule_problems(phase: Phase, added: Names, models: set[str]) -> Iterator[tuple[Spot, str]]:
    spot: Spot = ("phases", phase.name, "rule")
    for column in sorted(phase.rule.needs - added - {"mask", "age"}):
        split = readout_of(column)
        if split is None:
            yield spot, f"reads '{column}', but no stage of 'experience' adds it.{makers({column})}"
        elif split[0] not in OWN and split[0] not in models:
            yield spot, f"reads '{column}': {unknown('model', split[0], models)}"


def _average_problems(spot: Spot, spec: PhaseSpec, phase: Phase) -> Iterator[tuple[Spot, str]]:
    """A denominator that is asked for, and that nothing in the rule divides by."""
    terms = any(isinstance(given, LossSpec) and given.average is None for given in spec.rule)
    whole = any(hasattr(rule, "average") for rule in getattr(phase.rule, "rules", ()))
    asked = spec.average != PhaseSpec.model_fields["average"].default
    if asked and not terms and not whole:
        own = ", ".join(f"'{given.use}'" for given in spec.rule)
        yield (*spot, "average"), f"is read by nothing: {own} has a denominator of its own."


def _model_problems(recipe: Recipe) -> Iterator[tuple[Spot, str]]:
    """The policy needs weights, from one place; adapters are for models that learn."""
    policy = recipe.models.get("policy")
    if policy is not None and policy.follows_policy == (recipe.base is None):
        said = "has no weights" if policy.follows_policy else "names weights, and so does 'base'"
        yield ("models", "policy"), f"{said}; give one of 'path', 'config' and 'base'."
    for name, spec in recipe.models.items():
        if spec.lora is not None and name not in recipe.trained:
            yield ("models", name, "lora"), f"no phase trains '{name}', so adapters change nothing."


def _rest_problems(recipe: Recipe) -> Iterator[tuple[Spot, str]]:
    """Memory is lent while its owner rests; vLLM lends that of one engine in a process."""
    learner, generator = recipe.learner.params, recipe.generator.params
    sleeps = getattr(generator, "sleep", False)
    if recipe.staleness and getattr(learner, "offload", False):
        never = "with 'staleness: 1' the learner works while the generator does and never rests."
        yield ("learner", "offload"), never
    if recipe.staleness and sleeps:
        never = "with 'staleness: 1' the generator works while the learner does and never rests."
        yield ("generator", "sleep"), never
    specs = {name: recipe.models.get(name) for name in sorted(recipe.trained)}
    served = [name for name, spec in specs.items() if spec is None or spec.kind == "causal"]
    if sleeps and len(served) > 1 and not getattr(generator, "separate_process", True):
        yield (
            ("generator", "sleep"),
            f"vLLM frees the memory of one engine in a process, and {' and '.join(served)} have "
            f"one each; leave it out or set 'separate_process: true'.",
        )


def _learned_problems(
    recipe: Recipe, phases: Sequence[Phase], added: Names
) -> Iterator[tuple[Spot, str]]:
    """A learned scalar is read by its name, and its name means one scalar of a model."""
    seen: dict[tuple[str, str], Learned] = {}
    for phase in phases:
        spot: Spot = ("phases", phase.name, "rule")
        weights = [getattr(term, "weight", None) for term in recipe.phases[phase.name].rule]
        named = [(kept.learned, kept) for kept in weights if isinstance(kept, Learned)]
        for name, kept in [*named, *learned_of(phase.rule).items()]:
            if readout_of(name) or name in added:
                yield spot, f"'{name}' cannot be learned: it is the name of a column or signal."
            if seen.setdefault((phase.model, name), kept) != kept:
                yield spot, f"learns '{name}' with other settings than another term does."


def _size_problems(spot: Spot, spec: PhaseSpec) -> Iterator[tuple[Spot, str]]:
    if spec.draw is not None and spec.when.at_least > 1 and spec.draw > spec.when.at_least:
        yield (
            (*spot, "draw"),
            f"draws {spec.draw} rows but fires with {spec.when.at_least} waiting; "
            f"raise 'when.at_least' to {spec.draw} or draw fewer.",
        )
    capacity = getattr(spec.pool.params, "capacity", None)
    if capacity is not None and capacity < spec.when.at_least:
        said = f"fires with {spec.when.at_least} rows waiting, but its pool holds {capacity}."
        yield (*spot, "when"), said
    if spec.when.first > spec.when.last:
        yield (
            (*spot, "when"),
            f"its window ends with step {spec.when.last:g}, before it begins: {spec.when.first}.",
        )
