"""The generator on vLLM 0.26 to 0.32: token ids in, token ids out, on GPUs or on a CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from didact.core.backends import vllm_engine, vllm_limits, vllm_versions, weight_sync
from didact.core.backends.models import ModelSpec
from didact.core.backends.probe import THRESHOLDS, Compared, Probe, differing, said
from didact.core.errors import RunError
from didact.core.protocols import Learner, World
from didact.core.ranges import Count, Fraction, Positive
from didact.core.types import Request, Sample, Sampling
from didact.core.world import Alone


class VllmGenerator:
    """Samples from a vLLM engine that takes over the learner's weights after every step.

    What cannot work is refused at once; the engine starts with the first weights, from a
    configuration alone. A request
    is sampled with its own seed, and its log-probabilities are those of the distribution drawn
    from. Prompts that come n times are read once (prefix caching). No text is made.

    Args:
        tokenizer: its end-of-sequence token ends a response, as do those of the model's generation
            settings.
        spec: which model.
        temperature: of the learner's readouts, for the probe.
        world: the processes of the run; each has an engine of its own.
        sampling: the recipe's; responses that leave no room for a prompt are refused.
        gpu_memory: share of a GPU's memory for the engine, weights and cache together.
        kv_cache_gib: size of the key-value cache; None: what `gpu_memory` leaves, 1 on a CPU.
        max_model_len: longest prompt and response together, in tokens; None: what the model can.
        max_sequences: most sequences decoded at once.
        tensor_parallel: GPUs of one engine; must divide the number of attention heads.
        enforce_eager: no CUDA graphs and no compilation: starts sooner, decodes slower.
        dtype: of the engine's weights; None: the model's.
        separate_process: run the engine in a process of its own.
        sleep: free the engine's GPU memory between `rest` and the next use (no effect on a CPU).
        sync: how weights travel: "reload" in this process or through a file, "ipc" by CUDA IPC
            into a process of its own on the learner's GPU (written to vLLM's interface, not run on
            a GPU), "auto": in this process if the engine is, else "ipc" on one GPU.
        bucket_mib: size of a packed chunk of "ipc"; a larger tensor makes all of its size.
        seeded: give every request a seed of its own. Without, vLLM draws from one generator and
            samples of one prompt are asked for at once: faster on GPUs with many requests, but
            samples then depend on what is batched together.
        probe: after each sync compare log-probabilities with the learner's and stop above this many
            nats; "auto": 1e-4 in float32, 0.03 in bfloat16; None: do not compare.
        tensors: compare every tensor after each sync; otherwise after the first two, if there is a
            probe: what did not follow the first update is found there, however little it moved.
    """

    def __init__(
        self,
        tokenizer: Any,
        spec: ModelSpec,
        temperature: float = 1.0,
        world: World | None = None,
        sampling: Sampling | None = None,
        *,
        gpu_memory: Fraction = 0.4,
        kv_cache_gib: Positive | None = None,
        max_model_len: Count | None = None,
        max_sequences: Count = 256,
        tensor_parallel: Count = 1,
        enforce_eager: bool = False,
        dtype: Literal["float32", "bfloat16"] | None = None,
        separate_process: bool = False,
        sleep: bool = False,
        sync: Literal["auto", "reload", "ipc"] = "auto",
        bucket_mib: Count = 256,
        seeded: bool = True,
        probe: Positive | Literal["auto"] | None = "auto",
        tensors: bool = False,
    ) -> None:
        self.versions = vllm_versions.installed()
        self.world: World = world or Alone()
        self.seeded, self.tensors = seeded, tensors
        config, more_ends = vllm_engine.described(spec, tokenizer)
        chosen = dtype or str(config.dtype or torch.float32).removeprefix("torch.")
        self.dtype: torch.dtype = getattr(torch, chosen)
        self.ends = sorted({tokenizer.eos_token_id, *more_ends})
        self.settings = vllm_engine.Settings(
            gpu_memory=gpu_memory,
            kv_cache_gib=kv_cache_gib,
            max_model_len=max_model_len,
            max_sequences=max_sequences,
            tensor_parallel=tensor_parallel,
            enforce_eager=enforce_eager,
            dtype=chosen,
            separate_process=separate_process,
            sleep=sleep,
            ranks=self.world.size,
            max_tokens=sampling.max_tokens if sampling else 1,
        )
        cuda = self.settings.check(config)
        inside = not separate_process and tensor_parallel == 1
        self.transport = weight_sync.choose(
            sync, in_process=inside, cuda=cuda, tensor_parallel=tensor_parallel
        )
        self.config, self.bucket = config, bucket_mib * 2**20
        self.learner: Learner
        self.engine: Any = None
        self.push: weight_sync.Push
        self.longest = 0
        limit = THRESHOLDS[self.dtype] if probe == "auto" else probe
        vocabulary = min(len(tokenizer), config.get_text_config().vocab_size)
        self.probe = None if limit is None else Probe(vocabulary, temperature, float(limit))
        self.gap: float | None = None
        self.count = self.pushes = 0
        self.otherwise: set[str] = set()
        self.asleep = False
        self.sleeps = sleep and cuda

    def start(self) -> None:
        """Start the engine for a learner, without its weights."""
        self.folder = tempfile.TemporaryDirectory(prefix="didact-engine-")
        vllm_engine.write(self.config, self.ends, Path(self.folder.name))
        self.engine = vllm_engine.start(Path(self.folder.name), self.settings, self.transport)
        self.longest = self.engine.llm_engine.model_config.max_model_len
        bucket = self.bucket
        if self.transport == "ipc":
            bucket = weight_sync.holding(bucket, self.learner.weights(), self.dtype)
        self.push = vllm_engine.pushes(
            self.engine, self.versions, self.transport, self.dtype, bucket
        )

    @property
    def version(self) -> int:
        """Number of weight syncs so far."""
        return self.count

    def sync(self, learner: Learner) -> Mapping[str, float]:
        """Take over the learner's weights; the version goes up by one. Says what the probe saw."""
        self.resume(learner, self.count + 1)
        return {} if self.gap is None else {"mismatch/probe": self.gap}

    def resume(self, learner: Learner, version: int) -> None:
        """Take over the learner's weights as those of a given version, and probe them.

        Raises:
            RunError: the engine then gives other log-probabilities than the learner.
        """
        self.learner = learner
        if self.engine is None:
            self.start()
        self._load(version)
        self.count = version
        if self.probe is not None:
            self.gap = self.probe.gap(self.generate, learner, self.world)
            self.probe.check(self.gap, version, lambda: said(*self._compared()))
        if self.tensors or (self.probe is not None and self.pushes < 2):
            self._compare(version)
        self.pushes += 1

    def rest(self) -> None:
        """Until the next use, leave the GPU's memory to the learner (with `sleep`)."""
        if self.sleeps and not self.asleep:
            self.engine.sleep(level=2)
            self.asleep = True

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]:
        """Continue every request; results in the order of the requests.

        Raises:
            RunError: a context and the longest response do not fit into `max_model_len`.
        """
        if not requests:
            return []
        if self.asleep:
            self._load(self.count)
        higher = "raise generator.max_model_len or " if self.settings.max_model_len else ""
        remedy = f"; {higher}lower sampling.max_tokens or prompt.max_tokens"
        vllm_limits.check_length(
            requests, sampling, self.longest, "vllm", "its max_model_len", remedy
        )
        merged = [[at] for at in range(len(requests))]
        if not self.seeded:
            merged = vllm_engine.alike(requests)
            vllm_engine.begin_draws(requests[0].seed)
        first = [requests[where[0]] for where in merged]
        prompts = [{"prompt_token_ids": request.context.tolist()} for request in first]
        params = [
            vllm_engine.sampling_params(
                replace(sampling, max_tokens=request.limit(sampling)),
                self.ends,
                request.seed if self.seeded else None,
                len(where),
            )
            for request, where in zip(first, merged, strict=True)
        ]
        samples: dict[int, Sample] = {}
        outputs = vllm_engine.generated(self.engine, prompts, params)
        for where, output in zip(merged, outputs, strict=True):
            samples |= zip(where, map(self._sample, output.outputs), strict=True)
        return [samples[at] for at in range(len(requests))]

    def _sample(self, output: Any) -> Sample:
        tokens = torch.tensor(list(output.token_ids), dtype=torch.int64)
        logprobs = torch.tensor(vllm_engine.sampled_logprobs(output), dtype=torch.float32)
        if output.finish_reason not in ("stop", "length") or len(logprobs) != len(tokens):
            raise RunError(
                f"generator 'vllm': a request ended as '{output.finish_reason}' with {len(tokens)} "
                f"tokens and {len(logprobs)} log-probabilities."
            )
        ended = len(tokens) > 0 and int(tokens[-1]) in self.ends
        return Sample(tokens, logprobs, truncated=not ended, version=self.count)

    def _load(self, version: int) -> None:
        """Weights first, then the cache: so both never lie beside the old weights."""
        if self.asleep:
            self.versions.wake(self.engine, ["weights"])
        self.push(self.learner.weights(), f"{version}")
        if self.asleep:
            self.versions.wake(self.engine, ["kv_cache"])
            self.asleep = False
        self.versions.forget_prefixes(self.engine)

    def _compare(self, version: int) -> None:
        """Stop if tensors differ; those that do since the first push are only laid out otherwise.

        The first push replaces noise, so a tensor that did not arrive is seen by the probe.
        """
        found = self._compared()
        if not self.tensors and not self.pushes:
            self.otherwise = set(found.apart)
        apart = [name for name in found.apart if name not in self.otherwise]
        if apart:
            raise RunError(f"sync {version}: {said(apart, found.unknown, found.rough)}")

    def _compared(self) -> Compared:
        """The learner's tensors which the engine holds otherwise, and those it cannot compare."""
        if self.settings.tensor_parallel > 1:
            return Compared([], [name for name, _ in self.learner.weights()], [])
        theirs = self.engine.collective_rpc("didact_products")[0]
        fused = self.engine.collective_rpc("didact_fused")[0]
        return differing(theirs, self.learner.weights(), fused, self.dtype)
