"""What many tests share: recipes on a model so small that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy one is no failure
settings.load_profile("any machine")
TINY = [
    "base=null",
    "models.policy={tokenizer: characters, config: {model_type: qwen3, hidden_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, "
    "intermediate_size: 64, max_position_embeddings: 512, tie_word_embeddings: true}}",
    "sampler.prompts=4",
    "sampling.max_tokens=12",
    "evaluation=null",
    "observers=[jsonl]",
]
"""Overrides that make any packaged recipe tiny: a fresh model of 17,000 parameters."""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Train a packaged recipe with overrides on the tiny model; returns the run's folder."""
    from didact.configs.launch import train_recipe

    def train(recipe: str, *overrides: str, folder: str = "run", resume: bool = False) -> Path:
        out = tmp_path / folder
        train_recipe(recipe, [*TINY, *overrides], out=out, resume=resume, quiet=True)
        return out

    return train
