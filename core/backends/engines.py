"""What the engines share beside the arithmetic: devices, memory, random states, checkpointing."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy
import torch

from didact.core.backends.driver import driver, hidden, no_gpu
from didact.core.errors import RecipeError, RunError
from didact.core.protocols import State
from didact.core.world import own_gpu

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def device(name: str) -> torch.device:
    """The device of this process: "auto" is the GPU of its local rank if there is one.

    Raises:
        RunError: "auto", and torch is built for CUDA and an NVIDIA driver is here, but no GPU is
            found, nor are they hidden on purpose: nobody wants to train on the CPU unawares.
    """
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", own_gpu())
    if torch.version.cuda and not hidden(os.environ):
        version, served = driver()
        if version:
            raise RunError(
                f"{no_gpu(torch.version.cuda, version, served)} For a run on the CPU say so: "
                f"device: cpu in learner and generator, or CUDA_VISIBLE_DEVICES= for everything."
            )
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """On a machine without a GPU, keep the memory that is freed: the next step needs as much again.

    Given back and asked for again, its pages cost a tenth of the quickstart's step. Blocks of more
    than 32 MiB are still given back, and what lies free above 2 GiB. Only with glibc; its own
    settings, `MALLOC_...` and `GLIBC_TUNABLES`, go first.
    """
    asked = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if asked or torch.cuda.is_available():
        return
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def checkpointed(model: Any, asked: bool | str) -> None:
    """Switch gradient checkpointing on; dropout is off, so training mode changes no value."""
    if asked == "auto":
        raise RecipeError("gradient_checkpointing: 'auto' is for recipes; say true or false here.")
    if not asked:
        return
    body = getattr(model, "gradient_checkpointing_enable", None) or getattr(
        model.model, "gradient_checkpointing_enable", None
    )
    if body is None:
        raise RecipeError("this model has no gradient checkpointing.")
    body(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()


def memory(name: str) -> tuple[str, float]:
    """ "GPU" or "CPU", and how many bytes of memory a process may have of it on this machine."""
    where = device(name)
    if where.type == "cpu" or not torch.cuda.is_available():
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return "CPU", whole / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "GPU", float(torch.cuda.get_device_properties(where).total_memory)


def peak_memory() -> tuple[str, float]:
    """Whose memory, and its peak in GiB: a GPU's since the last call, else this process's so far.

    The GPU's counts what torch has allocated in this process.
    """
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return "gpu", peak
    unit = 1 if sys.platform == "darwin" else 2**10
    return "process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def random_state() -> State:
    """Of torch, of every CUDA device, of numpy and of random, as tensors and plain data."""
    kind, keys, position, has_gauss, gauss = numpy.random.get_state()
    version, words, following = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), following],
    }


def restore_random(state: Mapping[str, Any]) -> None:
    """What `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))
    version, words, following = state["python"]
    random.setstate((version, tuple(words), following))
