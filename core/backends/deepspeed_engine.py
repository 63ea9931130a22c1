"""DeepSpeed's engine: how it is configured and started for our learner."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from didact.core.backends.forward import Readouts
from didact.core.backends.optim import NamedAdamW
from didact.core.errors import RecipeError

BUCKET = 2**26
"""Gradients that are reduced at once, and parameters that are gathered at once for export
(elements); DeepSpeed holds memory for all of a bucket."""


def started(reader: Readouts, optimizer: NamedAdamW, settings: dict[str, Any]) -> Any:
    """Start DeepSpeed in the process group of the run, or in one of a single process."""
    cuda = reader.device.type == "cuda"
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    backend = "nccl" if cuda else "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed

    # Gloo does; this extension would first be compiled, for a minute and with a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    deepspeed.utils.logger.setLevel("ERROR")
    deepspeed.init_distributed(backend, verbose=False)
    if not reader.has_values and settings["zero_optimization"]["stage"] == 3:
        head = reader.model.get_output_embeddings()
        deepspeed.zero.register_external_parameter(reader, head.weight)
    return deepspeed.initialize(model=reader, optimizer=optimizer, config=settings)[0]


def ours(stage: int, dtype: torch.dtype, ranks: int, parameters: int) -> dict[str, Any]:
    """One micro-batch per step as DeepSpeed sees it; accumulation is ours."""
    half = dtype == torch.bfloat16
    if half and stage == 0:
        raise RecipeError("ZeRO stage 0 computes in float32 only; bfloat16 needs stage 1 or more.")
    settings: dict[str, Any] = {
        "train_batch_size": ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": 2**62,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": min(parameters, BUCKET)},
    }
    if half:
        settings |= {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    return settings


def blank(engine: Any, stage: int) -> list[Tensor]:
    """What of the device has nothing in it between two updates (as of DeepSpeed 0.19).

    In stage 1 with bfloat16 the float32 sums of gradients, which a step leaves at 0; in stage 3 the
    buckets of gradients, which are written before they are read.
    """
    if engine is not None and stage == 1:
        return list(getattr(engine.optimizer, "fp32_groups_gradients_flat", ()))
    if engine is not None and stage == 3:
        buckets = engine.optimizer.ipg_buckets.values()
        return [bucket.buffer for bucket in buckets if bucket.buffer is not None]
    return []


def merged(first: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given over the first, mapping by mapping."""
    out = dict(first)
    for key, value in given.items():
        inner = out.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        out[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return out
