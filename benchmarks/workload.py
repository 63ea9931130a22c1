"""The 0.5B model and the batch that several benchmarks measure with, and how they measure."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

HALF_BILLION: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""The shape of Qwen2.5-0.5B: 494 M parameters. Weights are random."""


def natural_lengths(rows: int, longest: int, mean: float, seed: int = 0) -> list[int]:
    """Response lengths as a constant chance of stopping makes them; one reaches the limit."""
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.empty(rows).exponential_(1 / mean, generator=draw).ceil().long()
    drawn[0] = longest
    return [int(length) for length in drawn.clamp(1, longest)]


def mask_of(lengths: Sequence[int], width: int) -> torch.Tensor:
    """Bool [B, width], True for the tokens of each response."""
    return torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]


@dataclass(frozen=True)
class Taken:
    """Seconds that a call took, over its repetitions."""

    least: float
    median: float

    @staticmethod
    def by(call: Callable[[], object], repeat: int, clock: Callable[[], float]) -> Taken:
        """Time a call after one that does not count."""
        call()
        seconds = []
        for _ in range(repeat):
            began = clock()
            call()
            seconds.append(clock() - began)
        return Taken(min(seconds), statistics.median(seconds))


def clock_of(device: torch.device) -> Callable[[], float]:
    """On a CPU its own seconds, which a busy machine does not stretch; on a GPU wall time."""
    if device.type != "cuda":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def machine(device: torch.device) -> str:
    """What is measured on, and how busy it is."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; load average "
        f"{load} on {os.cpu_count()} cores"
    )
