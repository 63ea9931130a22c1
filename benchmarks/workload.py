"""The 0.5B model and the lengths of responses that several benchmarks measure with."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
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


def questions(file: Path, count: int, shortest: int = 63, longest: int = 127) -> None:
    """A task file of problems whose prompts have these lengths, and a bos token more, under the
    character tokenizer."""
    draw = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for at in range(count):
            text = "".join(draw.choices("abcdefgh ", k=draw.randint(shortest, longest)))
            lines.write(json.dumps({"id": str(at), "question": text, "answer": "a"}) + "\n")
