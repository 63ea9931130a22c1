"""Faster layers of the same function: Liger's kernels and torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from didact.core.backends import attention
from didact.core.errors import RecipeError


def hasten(model: nn.Module, *, liger: bool, compiled: bool) -> None:
    """Change a model's layers in place, as asked."""
    body: Any = getattr(model, "model", model) if hasattr(model, "head") else model
    if liger:
        _with_liger(body)
    if compiled:
        compile_layers(body)


def _with_liger(model: Any) -> None:
    """Put in Liger's RMSNorm, rotary embedding and SwiGLU; its losses are not ours."""
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError:
        raise RecipeError(
            "learner.liger: needs the library liger-kernel: pip install 'didact[liger]'."
        ) from None
    if next(model.parameters()).device.type == "cpu":
        raise RecipeError("learner.liger: its kernels run on a GPU, and the model is on the CPU.")
    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise RecipeError(f"learner.liger: has no kernels for '{kind}', only for {known}.")
    _apply_liger_kernel_to_instance(
        model=model,
        rope=True,
        rms_norm=True,
        swiglu=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
    )


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each decoder layer for any number of tokens; attention stays as it is.

    The parameters keep their names. The first steps take a minute or more.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    if not layers:
        raise RecipeError("learner.compile: finds no decoder layers in this model.")
    disable: Any = torch.compiler.disable
    attention.register(disable(attention.attend))
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
