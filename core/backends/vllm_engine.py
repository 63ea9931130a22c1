"""Starting a vLLM engine, and its words for our settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

from didact.core.backends import vllm_limits, weight_sync
from didact.core.backends.engines import random_state, restore_random
from didact.core.backends.models import ModelSpec, load_model
from didact.core.backends.vllm_errors import SILENT, cause, errors_in, last_line
from didact.core.backends.vllm_versions import NOT_INSTALLED, Versions
from didact.core.errors import RecipeError, RunError
from didact.core.types import Request, Sampling

WORKER = "didact.core.backends.weight_sync.EngineSide"
QUIET = {
    "VLLM_LOGGING_LEVEL": SILENT,  # errors reach the user as ours
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the learner's threads live in the same process
}
"""Variables of the environment, unless the user has set them."""


@dataclass(frozen=True)
class Settings:
    """Of one engine; see `VllmGenerator`, which has them from the recipe.

    Attributes:
        ranks: processes of the run; with several, the launcher's processes are the engine's.
        max_tokens: longest response that the recipe samples.
    """

    gpu_memory: float
    kv_cache_gib: float | None
    max_model_len: int | None
    max_sequences: int
    tensor_parallel: int
    enforce_eager: bool
    dtype: str
    separate_process: bool
    sleep: bool
    ranks: int = 1
    max_tokens: int = 1

    def check(self, config: Any) -> bool:
        """Refuse what cannot start, before a minute is spent; whether the engine is on GPUs.

        Raises:
            RecipeError: a setting does not fit the model or the machine.
            RunError: vLLM cannot be used here.
        """
        cuda = usable()
        asked, here = self.tensor_parallel, torch.cuda.device_count()
        text = config.get_text_config()
        vllm_limits.check_split(text, asked)
        vllm_limits.check_room(text, self.max_model_len, self.max_tokens)
        if cuda and self.ranks == 1 and asked > here:
            raise RecipeError(
                f"generator.tensor_parallel: {asked} GPUs asked for, {here} are here."
            )
        if self.ranks > 1 and (asked > 1 or self.separate_process):
            raise RecipeError(
                "generator: with several processes each has an engine of its own inside; leave out "
                "'tensor_parallel' and 'separate_process'."
            )
        vllm_limits.check_model(config, cuda)
        return cuda


@cache
def usable() -> bool:
    """Import vLLM; whether it computes on GPUs.

    Raises:
        RunError: it is not there, or it is built for GPUs and there is none.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform
    except (ImportError, OSError) as error:
        if (getattr(error, "name", None) or "").split(".")[0] == "vllm":
            raise RunError(NOT_INSTALLED) from None
        raise RunError(
            f"generator 'vllm': vLLM cannot be imported: {error}. It was built for another "
            f"torch or driver (see `nvidia-smi`): pip install 'didact[gpu]' again, or use "
            f"`generator=hf`."
        ) from None
    if current_platform.is_cpu():
        return False
    if not torch.cuda.is_available():
        raise RunError(
            f"generator 'vllm': vLLM for GPUs is installed, but torch {torch.__version__} (CUDA "
            f"{torch.version.cuda}) finds no GPU; compare with the driver's CUDA version in "
            f"`nvidia-smi`, or use `generator=hf`."
        )
    return True


def described(spec: ModelSpec, tokenizer: Any) -> tuple[Any, list[int]]:
    """A model's configuration, naming its architecture, and its end-of-sequence token ids."""
    from transformers import AutoConfig, GenerationConfig

    if spec.config is not None:
        with torch.device("meta"):
            model: Any = load_model(spec, tokenizer, "meta")
        config, settings = model.config, model.generation_config
        config.architectures = [type(model).__name__]
    else:
        path = Path(str(spec.path)).expanduser()
        source = str(path) if path.exists() else spec.path
        config = AutoConfig.from_pretrained(source)
        config.dtype = getattr(torch, spec.dtype)
        try:
            settings = GenerationConfig.from_pretrained(source)
        except OSError:  # a checkpoint without them: transformers takes the configuration's
            settings = GenerationConfig.from_model_config(config)
    ends = getattr(settings, "eos_token_id", None)
    return config, ends if isinstance(ends, list) else [] if ends is None else [ends]


def write(config: Any, ends: list[int], folder: Path) -> None:
    """What an engine reads. It ends responses at every such token that it finds in these files."""
    from transformers import GenerationConfig

    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=ends).save_pretrained(folder)


def start(folder: Path, settings: Settings, transport: weight_sync.Transport) -> Any:
    """An engine on a folder with a configuration; its weights are still to come.

    The random state of this process is left as it was.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if settings.separate_process else "0"
    if transport == "ipc":
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles to our own child process
    if not usable():
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(settings.kv_cache_gib or 1)))
    before, log = random_state(), folder / "errors.log"
    try:
        from vllm import LLM

        with errors_in(log):
            return LLM(str(folder), **_arguments(settings, transport))
    except Exception as error:
        raise RunError(
            f"generator 'vllm': the engine did not start: {cause(log) or last_line(error)} If it "
            f"is memory, lower generator.max_model_len or change generator.gpu_memory "
            f"({settings.gpu_memory:g}); VLLM_LOGGING_LEVEL=INFO shows what it did."
        ) from error
    finally:
        restore_random(before)


def _arguments(settings: Settings, transport: weight_sync.Transport) -> dict[str, Any]:
    given: dict[str, Any] = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "worker_extension_cls": WORKER,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_sequences,
        "tensor_parallel_size": settings.tensor_parallel,
        "enforce_eager": settings.enforce_eager or not usable(),
        "seed": 0,
    }
    if not usable():
        # A seeded request whose prompt is read in pieces fails: a CPU generator has no offset.
        given["enable_chunked_prefill"] = False
    else:
        given |= {
            "gpu_memory_utilization": settings.gpu_memory,
            "enable_sleep_mode": settings.sleep,
        }
        if settings.kv_cache_gib is not None:
            given["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
    if settings.ranks > 1:
        given["distributed_executor_backend"] = "external_launcher"
    if transport == "ipc":
        given["weight_transfer_config"] = {"backend": "ipc"}
    return given


def pushes(
    engine: Any,
    versions: Versions,
    transport: weight_sync.Transport,
    dtype: torch.dtype,
    bucket: int,
) -> weight_sync.Push:
    """The way of weights into an engine."""
    if transport == "memory":
        return weight_sync.InMemory(engine)
    if transport == "folder":
        return weight_sync.ThroughFolder(engine)
    ipc = weight_sync.PackedIpc(
        engine,
        versions,
        torch.device("cuda", torch.cuda.current_device()),
        dtype,
        offer=weight_sync.cuda_offer,
        encode=weight_sync.pickled_handles,
        bucket=bucket,
    )
    ipc.open()
    return ipc


def begin_draws(seed: int) -> None:
    """Of an engine in this process, for requests without a seed; those of ranks are not alike."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)


def alike(requests: Sequence[Request]) -> list[list[int]]:
    """Positions of the requests that share context and limit, in the order of their first."""
    found: dict[tuple[int | None, ...], list[int]] = {}
    for at, request in enumerate(requests):
        found.setdefault((request.max_tokens, *request.context.tolist()), []).append(at)
    return list(found.values())


def sampling_params(sampling: Sampling, ends: Sequence[int], seed: int | None, n: int = 1) -> Any:
    """vLLM's words for how to sample: one log-probability per token, no text, few stop ids.

    Raises:
        RunError: vLLM would sample at a higher temperature.
    """
    from vllm import SamplingParams

    greedy = sampling.temperature == 0
    made = SamplingParams(
        n=n,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=1.0 if greedy else sampling.top_p,
        top_k=0 if greedy else sampling.top_k,
        seed=None if greedy else seed,
        stop_token_ids=list(ends),
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
    )
    if made.temperature != sampling.temperature:
        raise RunError(
            f"generator 'vllm': vLLM samples at a temperature of {made.temperature:g} or more, or "
            f"at 0, not at {sampling.temperature:g}."
        )
    return made


def generated(engine: Any, prompts: Sequence[Any], params: Sequence[Any]) -> Any:
    """The engine's outputs in order; its failure as one line."""
    try:
        return engine.generate(prompts, params, use_tqdm=False)
    except Exception as error:
        raise RunError(
            f"generator 'vllm': the engine failed while generating: {last_line(error)} "
            f"VLLM_LOGGING_LEVEL=INFO shows more."
        ) from error


def sampled_logprobs(output: Any) -> list[float]:
    """The log-probability of every sampled token; the engine may add the most probable one's."""
    kept = output.logprobs
    return [kept.logprobs[at] for at in kept.start_indices]
