"""What a recipe's models take of each process's memory, moment by moment, without loading any."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from didact.configs.assemble import Parts
from didact.configs.schema import Recipe
from didact.core.backends import engines, footprint, sampling
from didact.core.backends.footprint import Bytes, Shape, Training
from didact.core.backends.models import ModelSpec
from didact.core.errors import RecipeError

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes in one process.

    Attributes:
        held: by model and part, between two updates; nothing of it is lent out.
        generating: beside it, what leaves the device (below 0) and what the generator takes.
        learning: by model, beside what is held, at the peak of an update.
        resting: what the generator keeps during an update.
        device: "GPU" or "CPU", and its memory here.
        checkpointing: whether activations are computed again; what "auto" has come to.
        tokens: of a full micro-batch, by model.
    """

    held: Mapping[str, Bytes]
    generating: Bytes
    learning: Mapping[str, Bytes]
    resting: float
    device: tuple[str, float]
    checkpointing: bool
    tokens: Mapping[str, int]

    @property
    def moments(self) -> dict[str, float]:
        """The bytes of each moment of a step."""
        held = sum(footprint.total(parts) for parts in self.held.values())
        out = {"generation": held + footprint.total(self.generating)}
        for name, parts in self.learning.items():
            out[f"update of {name}"] = held + self.resting + footprint.total(parts)
        return out

    @property
    def peak(self) -> float:
        return max(self.moments.values())


def predicted(
    recipe: Recipe,
    shapes: Mapping[str, Shape],
    specs: Mapping[str, ModelSpec],
    rows: int | None,
) -> Memory:
    """The memory of these models; `rows`: trajectories of a step, if that is known.

    `gradient_checkpointing: auto` means yes if an update would not fit into memory without.
    """
    asked = getattr(recipe.learner.params, "gradient_checkpointing", False)
    plain = _predicted(recipe, shapes, specs, rows, asked is True)
    if asked == "auto" and plain.peak > plain.device[1]:
        return _predicted(recipe, shapes, specs, rows, True)
    return plain


def _predicted(
    recipe: Recipe,
    shapes: Mapping[str, Shape],
    specs: Mapping[str, ModelSpec],
    rows: int | None,
    checkpointing: bool,
) -> Memory:
    device = engines.memory(getattr(recipe.learner.params, "device", "auto"))
    trained = recipe.trained & shapes.keys()
    how = {
        name: replace(
            training(recipe, specs[name], name in trained, rows),
            checkpointing=checkpointing,
            varlen=specs[name].dtype == "bfloat16" and device[0] == "GPU",
        )
        for name in shapes
    }
    held = {name: footprint.held(shapes[name], how[name]) for name in shapes}
    generating: Bytes = {}
    resting = 0.0
    away = sum(footprint.lent(shapes[name], how[name]) for name in shapes)
    if away:
        generating["lent to it"] = -away
    for name in sorted(trained):
        if specs[name].kind == "causal":
            taken, stays = _generator(recipe, shapes[name], specs[name], rows, device)
            resting += stays
            for part, size in taken.items():
                generating[part] = generating.get(part, 0.0) + size
    learning = {name: footprint.learning(shapes[name], how[name]) for name in sorted(trained)}
    tokens = {name: how[name].tokens for name in learning}
    return Memory(held, generating, learning, resting, device, checkpointing, tokens)


def loaded(recipe: Recipe, specs: Mapping[str, ModelSpec], parts: Parts) -> dict[str, ModelSpec]:
    """The models that lie in memory; `ref` is none of them if it is the policy without adapters."""
    policy = specs["policy"]
    out = {name: specs[name] for name in sorted(recipe.trained)}
    for name in sorted(parts.reads.keys() & specs.keys() - recipe.trained):
        if not (specs[name] is policy and policy.lora is not None and not recipe.staleness):
            out[name] = specs[name]
    return out


def chosen(recipe: Recipe, specs: Mapping[str, ModelSpec], rows: int | None) -> dict[str, bool]:
    """What "auto" in the learner's settings comes to, by setting; empty if nothing is "auto"."""
    if getattr(recipe.learner.params, "gradient_checkpointing", False) != "auto":
        return {}
    shapes = {name: shape_of(spec) for name, spec in specs.items()}
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    if len(known) < len(shapes):
        raise RecipeError(
            f"learner.gradient_checkpointing: 'auto' asks for the configuration of "
            f"{', '.join(sorted(set(shapes) - set(known)))} on this machine; say true or false."
        )
    memory = predicted(recipe, known, specs, rows)
    return {"gradient_checkpointing": memory.checkpointing}


def training(recipe: Recipe, spec: ModelSpec, trained: bool, rows: int | None) -> Training:
    """How a recipe's learner trains a model; a setting that it lacks is at its default."""
    given = recipe.learner.params
    longest = recipe.prompt.max_tokens + recipe.sampling.max_tokens
    tokens = int(getattr(given, "max_tokens", Training.tokens))
    tokens = max(min(tokens, rows * longest) if rows else tokens, 1)
    half = spec.dtype == "bfloat16"
    stage = getattr(given, "stage", None) if trained else None
    return Training(
        width=2 if half else 4,
        stage=stage,
        ranks=int(os.environ.get("WORLD_SIZE", "1")) if stage is not None else 1,
        optimizers=len(recipe.optimizers) if trained else 0,
        tokens=tokens,
        responses=tokens,
        logits=int(getattr(given, "logits", Training.logits)) if spec.kind == "causal" else 0,
        offload=bool(getattr(given, "offload", False)),
    )


def _generator(
    recipe: Recipe, shape: Shape, spec: ModelSpec, rows: int | None, device: tuple[str, float]
) -> tuple[Bytes, float]:
    """What a generator takes in this process while it generates, and what it keeps afterwards."""
    given: Any = recipe.generator.params
    width = 2 if (getattr(given, "dtype", None) or spec.dtype) == "bfloat16" else 4
    weights = float(width * shape.parameters)
    if hasattr(given, "max_batch"):
        prompt, response = recipe.prompt.max_tokens, recipe.sampling.max_tokens
        most = max(int(given.max_batch) // (prompt + response), 1)
        many = min(most, rows) if rows else most
        drawing = sampling.held(recipe.sampling.made())
        taken = footprint.decoding(shape, width, many, prompt, response, drawing)
        return {"generator weights": weights, **taken}, weights
    if not hasattr(given, "gpu_memory"):
        return {}, 0.0  # it serves elsewhere
    weights /= int(given.tensor_parallel)
    if given.kv_cache_gib is not None or device[0] == "CPU":
        cache = (given.kv_cache_gib or 1) * GIB
    else:
        cache = max(given.gpu_memory * device[1] - weights, 0.0)
    sleeps = given.sleep and device[0] == "GPU"
    return {
        "generator weights": weights,
        "key-value cache": cache,
    }, 0.0 if sleeps else weights + cache


def told(memory: Memory) -> Iterator[str]:
    """The parts, the moments and the peak, a line each."""
    for name, parts in memory.held.items():
        yield f"{name}: {_parts(parts)}"
    yield f"generation: beside them {_parts(memory.generating) or 'nothing'}"
    for name, parts in memory.learning.items():
        many = f"micro-batch of {memory.tokens[name]} tokens"
        yield f"update of {name}: beside them {_parts(parts)} ({many})"
    for moment, size in memory.moments.items():
        yield f"{moment}: {size / GIB:.3f} GiB in all"
    again = "computed again" if memory.checkpointing else "kept"
    yield f"gradient checkpointing: {'on' if memory.checkpointing else 'off'}, activations {again}"
    kind, size = memory.device
    yield f"peak: {memory.peak / GIB:.3f} GiB; this {kind} has {size / GIB:.1f} GiB"


def _parts(parts: Bytes) -> str:
    return ", ".join(f"{name} {size / GIB:.3f}" for name, size in parts.items() if size)


def shape_of(spec: ModelSpec) -> Shape | None:
    """A model's sizes from its configuration alone; None if that is not on this machine."""
    config: Any
    from transformers import AutoConfig, AutoModelForCausalLM

    if spec.config is not None:
        from didact.core.backends.models import load_tokenizer

        size = spec.config.get("vocab_size") or len(load_tokenizer(spec))
        config = AutoConfig.for_model(**{**spec.config, "vocab_size": size})
    else:
        file = Path(str(spec.path)).expanduser()
        if not file.is_dir():
            return None
        config = AutoConfig.from_pretrained(file)
    import torch

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = Shape.of(model, config)
    if spec.lora is None:
        return shape
    from didact.core.backends import lora

    with torch.device("meta"):
        adapted = lora.adapted(model, spec.lora, spec.seed)
    trained = sum(int(p.numel()) for p in lora.learning(adapted, True))
    return Shape.of(adapted, config, trained)
