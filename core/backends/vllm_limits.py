"""What of vLLM a model's shape allows; the rest is refused before an engine starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from didact.core.errors import RecipeError, RunError
from didact.core.types import Request, Sampling

PADDING = 64
"""vLLM makes a vocabulary a multiple of it."""


def check_split(text: Any, asked: int) -> None:
    """Refuse a tensor-parallel size that a model's layers cannot be split into."""
    heads: int = text.num_attention_heads
    shared: int = getattr(text, "num_key_value_heads", None) or heads
    inner = getattr(text, "intermediate_size", None)
    vocabulary = getattr(text, "vocab_size", None)
    split = {"attention heads": heads}
    if isinstance(inner, int):
        split["intermediate_size"] = inner
    if vocabulary is not None:
        split["vocabulary (padded)"] = -(-vocabulary // PADDING) * PADDING

    def fits(size: int) -> bool:
        kept = shared % size == 0 or size % shared == 0
        return kept and all(number % size == 0 for number in split.values())

    if not fits(asked):
        sizes = {"attention heads": heads, "key-value heads": shared} | split
        raise RecipeError(
            f"generator.tensor_parallel: {asked} does not divide the model's sizes "
            f"({', '.join(f'{name} {number}' for name, number in sizes.items())}); possible: "
            f"{', '.join(map(str, filter(fits, range(1, heads + 1))))}."
        )


def check_room(text: Any, max_model_len: int | None, max_tokens: int) -> None:
    """Refuse a context longer than the model's, and responses that leave no room for a prompt."""
    positions = getattr(text, "max_position_embeddings", None)
    if "'factor'" in f"{getattr(text, 'rope_parameters', '')}":  # which lengthens a context
        positions = None
    longest = {"generator.max_model_len": max_model_len}
    if not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        if max_model_len and positions and max_model_len > positions:
            raise RecipeError(
                f"generator.max_model_len: {max_model_len} is more than the model's "
                f"max_position_embeddings of {positions}; lower it."
            )
        longest["the model's max_position_embeddings"] = positions
    for name, limit in longest.items():
        if limit is not None and max_tokens >= limit:
            raise RecipeError(
                f"sampling.max_tokens: responses of up to {max_tokens} tokens leave no room for a "
                f"prompt in {name} of {limit}; lower it below {limit}."
            )


def check_length(
    requests: Sequence[Request],
    sampling: Sampling,
    longest: float,
    generator: str,
    limit: str,
    remedy: str = "",
) -> None:
    """Refuse requests that an engine has no room for.

    Args:
        longest: the engine's longest sequence, in tokens.
        generator, limit: whose limit it is, and what it is called there.
        remedy: what to do about it.
    """
    widest = max(requests, key=lambda each: len(each.context) + each.limit(sampling))
    context, most = len(widest.context), widest.limit(sampling)
    if context + most > longest:
        raise RunError(
            f"generator '{generator}': a prompt of {context} tokens and a response of up to {most} "
            f"exceed {limit} of {longest:.0f}{remedy}."
        )


def check_model(config: Any, cuda: bool) -> None:
    """Refuse a model that vLLM has no implementation of, or on a CPU no attention for."""
    from vllm import ModelRegistry

    names = list(config.architectures or ())
    known = set(ModelRegistry.get_supported_archs())
    if not known & set(names):
        raise RecipeError(
            f"generator 'vllm': vLLM has no implementation of {', '.join(names) or 'this model'}; "
            f"use `generator=hf`."
        )
    if not cuda:
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        text = config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        sizes = CPUAttentionBackend.get_supported_head_sizes()
        if size not in sizes:
            raise RecipeError(
                f"generator 'vllm': on a CPU vLLM has no attention for heads of {size}; it has "
                f"{', '.join(map(str, sizes))}. Use `generator=hf` or another head_dim."
            )
