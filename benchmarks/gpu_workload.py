"""The workloads of gpu_step.py: models, prompts, stop ids, and how memory is read."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from workload import HALF_BILLION, questions


@dataclass(frozen=True)
class Scale:
    """A workload.

    Attributes:
        config: of the model; weights are random.
        stops: how many token ids end a response, so that random weights stop by chance.
        shortest, longest_prompt: characters of a prompt.
        micro_tokens: of didact's micro-batches; `micro_rows`: of TRL's.
        settings: of didact's vLLM generator.
    """

    config: dict[str, Any]
    dtype: str
    prompts: int
    group: int
    shortest: int
    longest_prompt: int
    longest: int
    stops: int
    micro_tokens: int
    micro_rows: int
    settings: dict[str, Any] = field(default_factory=dict)


W1 = Scale(
    HALF_BILLION, "bfloat16", 64, 8, 63, 127, 1024, 600, 32768, 32,
    {"gpu_memory": 0.4, "max_sequences": 512},
)  # fmt: skip
TINY = Scale(
    {**HALF_BILLION, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128}
    | {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
    "float32", 8, 4, 15, 31, 64, 20, 2048, 16, {"max_sequences": 32},
)  # fmt: skip
SCALES = {"w1": W1, "tiny": TINY}


class StopIds(list[int]):
    """Token ids whose test for membership does not walk through all of them: vLLM makes it for
    every token, and hundreds of ids would be a cost of their own, for every contestant."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__(ids)
        self.known = frozenset(ids)

    def __contains__(self, token: object) -> bool:
        return token in self.known

    def __deepcopy__(self, memo: object) -> StopIds:
        return self


def stop_ids(scale: Scale) -> list[int]:
    """The ids that end a response, none of them a character."""
    draw = torch.Generator().manual_seed(0)
    free = torch.randperm(scale.config["vocab_size"] - 128, generator=draw) + 128
    return sorted(free[: scale.stops].tolist())


def prepare(home: Path, scale: Scale) -> None:
    """Write model, tokenizer and problems: `policy` for didact, `plain` for TRL.

    They differ in the generation settings alone: didact reads the stop ids from there, TRL is given
    them as settings, because vLLM would make a plain list of them.
    """
    from tokenizers import models
    from transformers import GenerationConfig

    from didact.core.backends.models import ModelSpec, load_model, load_tokenizer

    spec = ModelSpec(config=scale.config, tokenizer="characters", dtype=scale.dtype)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(spec)
    known = tokenizer.get_vocab()
    more = range(scale.config["vocab_size"] - len(known))
    vocabulary = known | {chr(0x50000 + at): len(known) + at for at in more}
    tokenizer.backend_tokenizer.model = models.WordLevel(vocabulary)
    model: Any = load_model(spec, tokenizer)
    for name, ends in (("policy", [tokenizer.eos_token_id, *stop_ids(scale)]), ("plain", None)):
        model.generation_config = GenerationConfig(eos_token_id=ends or tokenizer.eos_token_id)
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    tokenizer.save_pretrained(home / "tokenizer")  # beside a qwen2 model another class is loaded
    questions(home / "questions.jsonl", scale.prompts * 4, scale.shortest, scale.longest_prompt)


def memory() -> dict[str, float]:
    """GiB: what torch held at most, and what the GPU has in use; of the process on a CPU."""
    if not torch.cuda.is_available():
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.max_memory_allocated() / 2**30
    return {"peak_gib": held, "gpu_used_gib": (total - free) / 2**30}
