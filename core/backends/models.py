"""Models and tokenizers by description: a folder, a hub id, or fresh weights of a configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from didact.core.backends import attention
from didact.core.backends.lora import LoraSpec
from didact.core.backends.tokenizers import character_tokenizer
from didact.core.errors import RecipeError

VALUE_HEAD = "value_head.safetensors"


class ModelSpec(BaseModel):
    """Which model, and how it is loaded.

    Attributes:
        path: a folder, or a hub id. Only one of `path` and `config`; without both a model starts
            from the policy's weights, and the policy from those that `base` makes.
        config: a transformers configuration with its `model_type`; random weights from `seed`. The
            size of the vocabulary and the special tokens come from the tokenizer if absent.
        tokenizer: "characters", a folder or a hub id; the model's own path if absent.
        dtype: of the parameters the forward pass uses; float32 master copies are always kept.
        kind: "causal" language model, or "value": the same body with a scalar head.
        attention: "packed" (ours, fastest when rows are packed), or a name of transformers.
        seed: of fresh weights.
        lora: train adapters instead of these weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    kind: Literal["causal", "value"] = "causal"
    attention: Literal["packed", "sdpa", "eager", "flash_attention_2"] = "packed"
    seed: int = Field(default=0, ge=0)
    lora: LoraSpec | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        if self.path is not None and self.config is not None:
            raise ValueError("give only one of 'path' and 'config'")
        if self.kind == "value" and self.lora is not None:
            raise ValueError("'lora' is for causal models; a value model learns as a whole")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("'config' needs 'model_type', e.g. qwen3")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a model made from 'config' needs a 'tokenizer'")
        return self

    @property
    def follows_policy(self) -> bool:
        """Whether it names no weights of its own and starts from the policy's."""
        return self.path is None and self.config is None

    def following(self, policy: ModelSpec) -> ModelSpec:
        """Itself, or if it names no weights the policy's description with what it says itself."""
        if not self.follows_policy:
            return self
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return policy.model_copy(update={"lora": None, **own})


class ValueModel(nn.Module):
    """A transformer body and a linear head: one number per token. The head starts at zero."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.model = body
        self.head = nn.Linear(body.config.hidden_size, 1, dtype=body.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.config = body.config

    def save_pretrained(self, folder: str | Path, state_dict: Any = None) -> None:
        """The body as transformers writes it, and the head beside it."""
        from safetensors.torch import save_file

        weights: dict[str, Tensor] = dict(state_dict or self.state_dict())
        head = {k: v.contiguous() for k, v in weights.items() if k.startswith("head.")}
        body = {k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")}
        self.model.save_pretrained(folder, state_dict=body)
        save_file(head, str(Path(folder) / VALUE_HEAD))


def quickstart_model() -> dict[str, Any]:
    """The embedded model: Qwen3 in small, about 287k parameters with the character tokenizer."""
    return {
        "model_type": "qwen3",
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 24,
        "intermediate_size": 192,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "initializer_range": 0.02,
    }


def load_tokenizer(spec: ModelSpec) -> Any:
    """The model's tokenizer. One without tokens or without an end-of-sequence token is refused."""
    from transformers import AutoTokenizer

    source = spec.tokenizer or spec.path
    if source == "characters":
        return character_tokenizer()
    tokenizer = _pretrained(AutoTokenizer, source, "tokenizer")
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of no files
        raise RecipeError(f"tokenizer: '{source}' has no files of a tokenizer, or an empty one.")
    if tokenizer.eos_token_id is None:
        raise RecipeError(f"tokenizer '{source}' has no end-of-sequence token.")
    return tokenizer


def load_model(spec: ModelSpec, tokenizer: Any, device: torch.device | str = "cpu") -> nn.Module:
    """The model in evaluation mode, without dropout, on one device."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed searches, and warns
    dtype = getattr(torch, spec.dtype)
    name = attention.register() if spec.attention == "packed" else spec.attention
    auto = AutoModel if spec.kind == "value" else AutoModelForCausalLM
    options = {"dtype": dtype, "attn_implementation": name}
    model: Any
    try:
        if spec.config is not None:
            model = _fresh(auto, spec, tokenizer, options)
        else:
            model, found = _pretrained(
                auto, spec.path, "model", output_loading_info=True, **options
            )
            if lacking := sorted(found["missing_keys"]):
                raise RecipeError(
                    f"model '{spec.path}': its files lack {len(lacking)} weights, the first: "
                    f"{lacking[0]}."
                )
    except KeyError as error:
        if name not in error.args:
            raise
        raise RecipeError(
            f"model '{spec.path or spec.config}' has no 'attention: {spec.attention}'; say "
            f"'attention: eager'."
        ) from None
    _check_vocabulary(model, tokenizer, spec)
    if spec.kind == "value":
        model = _with_head(model, spec)
    _without_dropout(model)
    made: nn.Module = model.to(device).eval()
    return made


def _fresh(auto: Any, spec: ModelSpec, tokenizer: Any, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **(spec.config or {}),
    }
    try:
        config = AutoConfig.for_model(**settings)
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"model: its 'config' is not usable: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        try:
            return auto.from_config(config, **options)
        except ImportError as error:
            raise _lacking("model", error, options) from None


def _lacking(what: str, error: ImportError, options: Mapping[str, Any]) -> RecipeError:
    """What to say of a package that transformers does not find for a model or a tokenizer."""
    said = str(error).strip().splitlines()[0].rpartition("following error: ")[2]
    if options.get("attn_implementation") == "flash_attention_2" and "FlashAttention" in said:
        return RecipeError(
            f"{what} cannot have 'attention: flash_attention_2': {said} Install flash-attn "
            f"(pip install flash-attn --no-build-isolation, on a machine with an NVIDIA GPU), or "
            f"say 'attention: packed', which needs no package."
        )
    return RecipeError(f"{what} needs a package that is not here: {said}")


def _pretrained(auto: Any, source: str | None, what: str, **options: Any) -> Any:
    from safetensors import SafetensorError

    path = Path(str(source)).expanduser()
    looks_local = str(source).startswith((".", "/", "~")) or str(source).count("/") != 1
    if looks_local and not path.exists():
        raise RecipeError(f"{what}: there is no folder '{source}', and it is no hub id.")
    try:
        return auto.from_pretrained(str(path) if path.exists() else source, **options)
    except ImportError as error:
        raise _lacking(f"{what} '{source}'", error, options) from None
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(f"{what}: '{source}' cannot be loaded: {first}") from None


def _check_vocabulary(model: Any, tokenizer: Any, spec: ModelSpec) -> None:
    size, wanted = model.config.vocab_size, len(tokenizer)
    if wanted > size:
        raise RecipeError(
            f"model '{spec.path or spec.config}' has {size} token ids, its tokenizer {wanted}: "
            f"they do not belong together."
        )


def _with_head(body: Any, spec: ModelSpec) -> ValueModel:
    from safetensors.torch import load_file

    model = ValueModel(body)
    file = Path(spec.path or "").expanduser() / VALUE_HEAD
    if spec.path is not None and file.exists():
        model.load_state_dict(load_file(str(file)), strict=False)
    return model


def _without_dropout(model: nn.Module) -> None:
    """Sampler, old and live log-probabilities must come from one function of the weights."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
