"""What of vLLM a model's shape allows; the rest is refused before an engine starts."""

from __future__ import annotations

from typing import Any

from didact.core.errors import RecipeError


def check_split(text: Any, asked: int) -> None:
    """Refuse a tensor-parallel size that a model's layers cannot be split into."""
    heads: int = text.num_attention_heads
    shared: int = getattr(text, "num_key_value_heads", None) or heads
    inner = getattr(text, "intermediate_size", None)

    def fits(size: int) -> bool:
        whole = heads % size == 0 and (shared % size == 0 or size % shared == 0)
        return whole and (not isinstance(inner, int) or inner % size == 0)

    if not fits(asked):
        between = f", {shared} key-value heads" if shared != heads else ""
        between += f" and intermediate_size {inner}" if isinstance(inner, int) else ""
        raise RecipeError(
            f"generator.tensor_parallel: {asked} does not divide the model's {heads} attention "
            f"heads{between}; possible: {', '.join(map(str, filter(fits, range(1, heads + 1))))}."
        )


def check_room(text: Any, max_model_len: int | None, max_tokens: int) -> None:
    """Refuse responses so long that no prompt fits before them."""
    limits = {"generator.max_model_len": max_model_len}
    if "'factor'" not in f"{getattr(text, 'rope_parameters', '')}":  # which lengthens a context
        positions = getattr(text, "max_position_embeddings", None)
        limits["the model's max_position_embeddings"] = positions
    for name, limit in limits.items():
        if limit is not None and max_tokens >= limit:
            raise RecipeError(
                f"sampling.max_tokens: responses of up to {max_tokens} tokens leave no room for a "
                f"prompt in {name} of {limit}; lower it below {limit}."
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
