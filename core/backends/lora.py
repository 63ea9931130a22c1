"""Low-rank adapters on linear layers, by the peft library, and the weights they merge to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from didact.core.errors import RecipeError
from didact.core.protocols import Names, Reader
from didact.core.ranges import Count, Positive
from didact.core.types import Trajectory

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.", ".lora_B.default."
"""What peft puts into the names of the parameters of a layer that it adapts."""


class LoraSpec(BaseModel):
    """Low-rank adapters, LoRA, arXiv:2106.09685: W + alpha / rank B A, of which A and B learn.

    B starts at 0, so the model starts as it is. There is no dropout: the log-probabilities that are
    learned from must be those of the model that is sampled.

    Attributes:
        rank: of B A.
        alpha: their scale, times the rank.
        targets: names of linear layers, or ends of such ("q_proj"); "all-linear": all but the
            output embedding, which cannot be adapted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rank: Count
    alpha: Positive = 32.0
    targets: Literal["all-linear"] | list[str] = "all-linear"


def adapted(model: Any, spec: LoraSpec, seed: int) -> nn.Module:
    """Put adapters into a causal language model; nothing else in it will learn.

    Args:
        seed: of A.

    Raises:
        RecipeError: peft is not installed, or a target is none of the model's linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RecipeError("'lora' needs the library peft: pip install 'didact[lora]'.") from None
    _check_targets(model, spec.targets)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules=spec.targets,
        lora_dropout=0.0,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = inject_adapter_in_model(config, model)
    for name in scales(made):
        if not isinstance(made.get_submodule(f"{name}.base_layer"), nn.Linear):
            raise RecipeError(f"lora: '{name}' is no plain linear layer; give 'targets'.")
    return made


def _check_targets(model: Any, targets: str | Sequence[str]) -> None:
    """Each must be the name of linear layers, or its end, and not the output embedding."""
    head = model.get_output_embeddings()
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    layers -= {name for name, module in model.named_modules() if module is head}
    for target in [] if isinstance(targets, str) else targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise RecipeError(
                f"lora: there is no linear layer '{target}' to adapt; there is {', '.join(ends)}."
            )


def scales(model: nn.Module) -> dict[str, float]:
    """alpha / rank of every adapted layer by its name; empty for a model without adapters."""
    layers: Iterable[tuple[str, Any]] = model.named_modules()
    return {name: layer.scaling["default"] for name, layer in layers if hasattr(layer, "lora_B")}


def learning(model: nn.Module, trained: bool) -> list[Tensor]:
    """Mark and return the parameters that learn: all, those of adapters if it has any, or none."""
    has_adapters = bool(scales(model))
    for name, param in model.named_parameters():
        param.requires_grad_(trained and (not has_adapters or DOWN in name or UP in name))
    return [param for param in model.parameters() if param.requires_grad]


class WithoutAdapters:
    """An adapted model as it was before its adapters learned: a reference that takes no memory."""

    def __init__(self, learner: Reader, model: nn.Module) -> None:
        layers: Iterable[Any] = model.modules()
        self.learner = learner
        self.layers = [layer for layer in layers if hasattr(layer, "lora_B")]

    def freeze(self, rows: Sequence[Trajectory], columns: Names) -> Sequence[Trajectory]:
        """Attach readouts of the base, without gradient, as columns."""
        before = [layer.scaling["default"] for layer in self.layers]
        try:
            for layer in self.layers:
                layer.scaling["default"] = 0.0
            return self.learner.freeze(rows, columns)
        finally:
            for layer, scale in zip(self.layers, before, strict=True):
                layer.scaling["default"] = scale


def merged(
    named: Iterable[tuple[str, Tensor]], scale: Mapping[str, float]
) -> Iterator[tuple[str, Tensor]]:
    """The weights of the same function without adapters, by the names of the model without.

    Args:
        named: whole tensors, in the order of the model's parameters.
        scale: from `scales`.
    """
    held: dict[str, Tensor] = {}
    for name, value in named:
        layer, _, _ = name.partition(DOWN if DOWN in name else UP if UP in name else BASE)
        if layer not in scale:
            yield name, value
        elif name.endswith(UP + "weight"):
            weight, down = held.pop(layer + BASE), held.pop(layer + DOWN)
            change = scale[layer] * (value.float() @ down.float())
            yield f"{layer}.weight", (weight.float() + change).to(weight.dtype)
        elif name.endswith(BASE + "bias"):
            yield f"{layer}.bias", value
        else:
            held[layer + (DOWN if DOWN in name else BASE)] = value
