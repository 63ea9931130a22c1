"""OpenAI-compatible servers as generator, with weights that follow the learner or stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from didact.core.backends import server_sync
from didact.core.backends.endpoint import Endpoint
from didact.core.backends.models import ModelSpec
from didact.core.backends.probe import THRESHOLDS, Probe, differing, said
from didact.core.backends.spread import models, named, spread
from didact.core.backends.vllm_engine import alike, described
from didact.core.backends.vllm_limits import check_length
from didact.core.errors import RecipeError, RunError
from didact.core.protocols import Learner, World
from didact.core.ranges import Count, NonNegative, Positive, Whole
from didact.core.types import Request, Sample, Sampling
from didact.core.world import Alone

FIRST_CONTACT = 10.0
"""Seconds to wait for a server that is not there when the run starts."""


class ServerGenerator:
    """Samples from models that are served elsewhere, by one server or several of the same model.

    It trains on token ids, so a server must return them (vLLM does, with `return_token_ids`): text
    that is made to ids again is not what was sampled, and is refused. A request goes to whichever
    server is free. What a lost server has not answered the others do, or itself when it is back.

    Args:
        tokenizer: the served model's too; its end-of-sequence token ends a response, as do those of
            the model's generation settings.
        spec: which model.
        temperature: of the learner's readouts, for the probe.
        world: the processes of the run.
        url: of one server or of several, up to and with the version: http://127.0.0.1:8000/v1.
        sync: how weights travel to vLLM servers (0.26 to 0.32) after every step: "folder", through
            files that they can read, or "nccl", from GPU to GPU (written to vLLM's interface, not
            run on a GPU). None: they stay as they are; needs `fixed`.
        fixed: says that you know that the weights stay as they are. The samples' `version` stays
            too, so `max_age` and importance weights see how old they are.
        folder: for sync "folder", one that all servers see under the same path; None: in this
            machine's memory, for servers on it.
        bucket_mib: size of a packed chunk of "nccl"; a larger tensor makes all of its size.
        served: the model's name there; None: the only one that is served.
        seeded: give every request a seed of its own. Without, samples of one prompt are asked for
            in one request.
        probe: after each sync compare log-probabilities of every server with the learner's and stop
            above this many nats; "auto": 1e-4 in float32, 0.03 in bfloat16; None: do not compare.
        timeout, retries, wait, concurrency, key: as in `Endpoint`, for each server.
    """

    def __init__(
        self,
        tokenizer: Any,
        spec: ModelSpec | None = None,
        temperature: float = 1.0,
        world: World | None = None,
        *,
        url: str | list[str],
        sync: Literal["folder", "nccl"] | None = None,
        fixed: bool = False,
        folder: str | None = None,
        bucket_mib: Count = 256,
        served: str | None = None,
        seeded: bool = True,
        probe: Positive | Literal["auto"] | None = "auto",
        timeout: Positive = 600.0,
        retries: Whole = 5,
        wait: NonNegative = 600.0,
        concurrency: Count = 256,
        key: str = "OPENAI_API_KEY",
    ) -> None:
        urls = [url] if isinstance(url, str) else url
        if fixed == (sync is not None) or not urls:
            raise RecipeError(
                "generator 'server': give its url, and say what becomes of the served weights: "
                "generator.sync=folder or nccl to let them follow the learner, or "
                "generator.fixed=true to sample from them as they are."
            )
        self.servers = [Endpoint(each, timeout, retries, wait, concurrency, key) for each in urls]
        at_start = [replace(each, wait=min(wait, FIRST_CONTACT)) for each in self.servers]
        self.served = named(at_start[0], served)
        self.longest = min(_longest(each, self.served) for each in at_start)
        more_ends = described(spec, tokenizer)[1] if spec else []
        self.ends = sorted({int(tokenizer.eos_token_id), *more_ends})
        self.seeded = seeded
        self.world: World = world or Alone()
        self.way = None
        self.probe: Probe | None = None
        if sync is not None:
            self.way = server_sync.opened(sync, at_start, self.world, folder, bucket_mib * 2**20)
            self.way.servers.wait = wait
            limit = THRESHOLDS[self.way.dtype] if probe == "auto" else probe
            if limit is not None:
                self.probe = Probe(len(tokenizer), temperature, float(limit))
        self.gap: float | None = None
        self.count = 0
        self.processed = False

    @property
    def version(self) -> int:
        """Number of weight syncs so far; 0 if the weights stay as they are."""
        return self.count

    def sync(self, learner: Learner) -> Mapping[str, float]:
        """Push the learner's weights, if they follow it; the version goes up by one."""
        if self.way is not None:
            self.resume(learner, self.count + 1)
        return {} if self.gap is None else {"mismatch/probe": self.gap}

    def resume(self, learner: Learner, version: int) -> None:
        """Push the learner's weights as those of a given version, and probe every server.

        Raises:
            RunError: a server then gives other log-probabilities than the learner.
        """
        if self.way is None:
            return
        reached = self.way.push(learner.weights, version)
        self.count = version
        if self.probe is None:
            return
        gaps = []
        for server in (each for each in self.servers if each.url in reached):
            gaps.append(self.probe.gap(partial(self._from, [server]), learner, self.world))
            self.probe.check(gaps[-1], version, partial(self._compared, server.url, learner))
        self.gap = max(gaps)

    def rest(self) -> None:
        """The servers' memory is their own."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]:
        """Continue every request; results in the order of the requests.

        Raises:
            RunError: the servers refuse one, or all stay down.
        """
        return self._from(self.servers, requests, sampling)

    def _from(
        self, servers: Sequence[Endpoint], requests: Sequence[Request], sampling: Sampling
    ) -> Sequence[Sample]:
        if not requests:
            return []
        check_length(requests, sampling, self.longest, "server", "the server's --max-model-len")
        plain = sampling.top_p == 1.0 and not sampling.top_k
        if not self.processed and not (plain and sampling.temperature in (0.0, 1.0)):
            self._check_processed(requests[0])
        merged = [[at] for at in range(len(requests))] if self.seeded else alike(requests)
        bodies = [self._body(requests[where[0]], sampling, len(where)) for where in merged]
        samples: dict[int, Sample] = {}
        for where, answer in zip(merged, self._asked(servers, bodies), strict=True):
            choices = sorted(answer["choices"], key=lambda choice: int(choice.get("index", 0)))
            most = requests[where[0]].limit(sampling)
            made = [self._sample(choice, most) for choice in choices]
            samples |= zip(where, made, strict=True)
        return [samples[at] for at in range(len(requests))]

    def _asked(
        self, servers: Sequence[Endpoint], bodies: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        return spread(servers, "/completions", bodies, self.way.admit if self.way else None)

    def _body(self, request: Request, sampling: Sampling, n: int = 1) -> dict[str, Any]:
        greedy = sampling.temperature == 0
        return {
            "model": self.served,
            "prompt": request.context.tolist(),
            "n": n,
            "max_tokens": request.limit(sampling),
            "temperature": sampling.temperature,
            "top_p": 1.0 if greedy else sampling.top_p,
            "top_k": 0 if greedy else sampling.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logprobs": 0,
            "stop_token_ids": self.ends,
            "return_token_ids": True,
            **({"seed": request.seed} if self.seeded else {}),
        }

    def _sample(self, choice: Mapping[str, Any], most: int) -> Sample:
        ids = choice.get("token_ids")
        if ids is None:
            raise RunError(
                "generator 'server': the server returns text without token ids, and text made to "
                "ids again is not what was sampled; use one that knows 'return_token_ids' (vLLM), "
                "or this one as a judge or critic only."
            )
        kept = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if len(kept) != len(ids):
            raise RunError(
                f"generator 'server': {len(ids)} tokens came with {len(kept)} log-probabilities."
            )
        if choice.get("finish_reason") not in ("stop", "length"):
            raise RunError(
                f"generator 'server': a request ended as '{choice.get('finish_reason')}'."
            )
        tokens = torch.tensor(ids, dtype=torch.int64)
        ended = choice["finish_reason"] == "stop" or (len(ids) > 0 and int(ids[-1]) in self.ends)
        if not ended and len(ids) < most:
            raise RunError(
                f"generator 'server': a response was cut after {len(ids)} of {most} tokens; start "
                f"the server without a max_new_tokens of its own (--generation-config vllm)."
            )
        logprobs = torch.tensor(kept, dtype=torch.float32)
        return Sample(tokens, logprobs, truncated=not ended, version=self.count)

    def _check_processed(self, request: Request) -> None:
        """Refuse log-probabilities of another distribution than the one drawn from.

        Of the most probable token alone, its log-probability under that distribution is 0.
        """
        body = self._body(request, Sampling(top_k=1, max_tokens=1))
        for server in self.servers:
            sample = self._sample(self._asked([server], [body])[0]["choices"][0], 1)
            if float(sample.logprobs[0]) < -1e-5:
                raise RunError(
                    f"generator 'server': {server.url} reports log-probabilities before "
                    f"temperature, top_p and top_k; start it with --logprobs-mode "
                    f"processed_logprobs."
                )
        self.processed = True

    def _compared(self, url: str, learner: Learner) -> str:
        """Which of the learner's tensors a server holds otherwise, in words."""
        if self.way is None:
            return ""
        engine = self.way.servers.engines[url]
        theirs = engine.collective_rpc("didact_products")
        if len(theirs) > 1:
            return "Which tensors differ is not known: the model is in several parts."
        fused = engine.collective_rpc("didact_fused")[0]
        found = differing(theirs[0], learner.weights(), fused, self.way.dtype)
        return f"{url}: {said(*found)}"


def _longest(server: Endpoint, model: str) -> float:
    """Most tokens of prompt and response together, if a server says so.

    Raises:
        RunError: it serves no such model.
    """
    served = {str(entry["id"]): entry for entry in models(server)}
    if model not in served:
        raise RunError(
            f"generator 'server': {server.url} serves {', '.join(served) or 'nothing'}, not "
            f"'{model}'; start all servers with one --served-model-name."
        )
    return float(served[model].get("max_model_len") or torch.inf)
