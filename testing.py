"""The public side of the contract tests: `from didact.testing import check, Example`."""

from pathlib import Path

from didact.plugins.testing.data import (
    PROBLEMS,
    Babbler,
    Characters,
    Problems,
    groups,
    make_run,
    trajectory,
)
from didact.plugins.testing.part import Broken, Example, Part, parts_of
from didact.plugins.testing.promises import PROMISES, check, kept, promises_of

__all__ = [
    "PROBLEMS",
    "PROMISES",
    "Babbler",
    "Broken",
    "Characters",
    "Example",
    "Part",
    "Problems",
    "check",
    "groups",
    "kept",
    "make_run",
    "parts_of",
    "promises_of",
    "train_tiny",
    "trajectory",
]

TINY = (
    "base=null",
    "models.policy={tokenizer: characters, config: {model_type: qwen3, hidden_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, "
    "intermediate_size: 64, max_position_embeddings: 512, tie_word_embeddings: true}}",
    "sampler.prompts=4",
    "sampling.max_tokens=12",
    "evaluation=null",
    "observers=[jsonl]",
)
"""Overrides that make a recipe of the embedded world tiny: a fresh model of 17,000 parameters."""


def train_tiny(recipe: str, *overrides: str, steps: int = 2, out: Path) -> Path:
    """Train a recipe for some steps on a model so small that it takes seconds.

    Args:
        recipe: a path, or the name of a packaged recipe or of a plug-in's.
        overrides: as on the command line.
        out: the run's folder, which is also returned.

    Raises:
        DidactError: the recipe is wrong, or the run failed.
    """
    from didact.configs.launch import train_recipe

    train_recipe(recipe, [*TINY, f"steps={steps}", *overrides], out=out, quiet=True)
    return out
