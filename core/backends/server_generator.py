"""An OpenAI-compatible server as generator, and as the other side of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from didact.core.backends.endpoint import Endpoint
from didact.core.errors import RunError
from didact.core.protocols import Learner, Request, Sample, Sampling
from didact.core.ranges import Count, NonNegative, Positive, Whole

Message = Mapping[str, str]
FIRST_CONTACT = 10.0
"""Seconds to wait for a server that is not there when the run starts."""


class ServerGenerator:
    """Samples from a model that somebody else serves; its weights do not follow the learner.

    It trains on token ids, so the server must return them (vLLM does, with `return_token_ids`):
    text that is made to ids again is not what was sampled, and is refused.

    Args:
        tokenizer: the served model's too; its end-of-sequence token ends a response.
        url: up to and with the version, e.g. http://127.0.0.1:8000/v1.
        fixed: must be true: says that you know that the weights stay as they are. The samples'
            `version` stays too, so `max_age` and importance weights see how old they are.
        served: the model's name there; None: the only one that is served.
        timeout, retries, wait, concurrency, key: as in `Endpoint`.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        url: str,
        fixed: bool = False,
        served: str | None = None,
        timeout: Positive = 600.0,
        retries: Whole = 5,
        wait: NonNegative = 600.0,
        concurrency: Count = 256,
        key: str = "OPENAI_API_KEY",
    ) -> None:
        self.endpoint = Endpoint(url, timeout, retries, wait, concurrency, key)
        at_start = replace(self.endpoint, wait=min(wait, FIRST_CONTACT))
        self.served = at_start.named(served)
        self.end: int = tokenizer.eos_token_id
        self.fixed = fixed
        self.count = 0
        self.processed = False

    @property
    def version(self) -> int:
        """Of the weights: it does not change, because they do not."""
        return self.count

    def sync(self, learner: Learner) -> None:
        """Do nothing, if that was asked for.

        Raises:
            RunError: nobody said that the server may fall behind the learner.
        """
        if not self.fixed:
            raise RunError(
                f"generator 'server': {self.endpoint.url} keeps its weights, the learner does not; "
                f"set generator.fixed=true to sample from it as it is, or use generator=vllm."
            )

    def resume(self, learner: Learner, version: int) -> None:
        """Begin at a version; after the first step as `sync`."""
        if version > 0:
            self.sync(learner)

    def rest(self) -> None:
        """The server's memory is its own."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]:
        """Continue every request; results in the order of the requests."""
        plain = sampling.top_p == 1.0 and not sampling.top_k
        if requests and not self.processed and not (plain and sampling.temperature in (0.0, 1.0)):
            self._check_processed(requests[0])
        bodies = [self._body(request, sampling) for request in requests]
        return [self._sample(answer) for answer in self.endpoint.post("/completions", bodies)]

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        greedy = sampling.temperature == 0
        return {
            "model": self.served,
            "prompt": request.context.tolist(),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0 if greedy else sampling.top_p,
            "top_k": 0 if greedy else sampling.top_k,
            "seed": request.seed,
            "logprobs": 0,
            "stop_token_ids": [self.end],
            "return_token_ids": True,
        }

    def _sample(self, answer: Mapping[str, Any]) -> Sample:
        choice = answer["choices"][0]
        ids = choice.get("token_ids")
        if ids is None:
            raise RunError(
                f"generator 'server': {self.endpoint.url} returns text without token ids, and text "
                f"made to ids again is not what was sampled; use a server that knows "
                f"'return_token_ids' (vLLM), or this one as a judge or critic only."
            )
        tokens = torch.tensor(ids, dtype=torch.int64)
        kept = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if len(kept) != len(ids):
            raise RunError(
                f"generator 'server': {len(ids)} tokens came with {len(kept)} log-probabilities."
            )
        if choice.get("finish_reason") not in ("stop", "length"):
            raise RunError(
                f"generator 'server': a request ended as '{choice.get('finish_reason')}'."
            )
        ended = len(ids) > 0 and int(ids[-1]) == self.end
        logprobs = torch.tensor(kept, dtype=torch.float32)
        return Sample(tokens, logprobs, truncated=not ended, version=self.count)

    def _check_processed(self, request: Request) -> None:
        """Refuse log-probabilities of another distribution than the one drawn from.

        Of the most probable token alone, its log-probability under that distribution is 0.
        """
        body = self._body(request, Sampling(top_k=1, max_tokens=1))
        sample = self._sample(self.endpoint.post("/completions", [body])[0])
        if float(sample.logprobs[0]) < -1e-5:
            raise RunError(
                f"generator 'server': {self.endpoint.url} reports log-probabilities before "
                f"temperature, top_p and top_k; start it with --logprobs-mode processed_logprobs."
            )
        self.processed = True


@dataclass(frozen=True)
class ServerChat:
    """Asks a served model in words, for judges and critics.

    Attributes:
        endpoint: where.
        served: the model's name there; None: the only one that is served.
        temperature: of its answers; 0 is greedy.
        max_tokens: longest answer.
        seed: of its answers, where the server knows seeds.
    """

    endpoint: Endpoint
    served: str | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int | None = None

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """One answer per conversation, in order.

        Raises:
            RunError: the server refuses, or stays down.
        """
        if not conversations:
            return []
        fixed = {
            "model": self.endpoint.named(self.served),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **({} if self.seed is None else {"seed": self.seed}),
        }
        bodies = [{**fixed, "messages": [dict(m) for m in chat]} for chat in conversations]
        answers = self.endpoint.post("/chat/completions", bodies)
        return [str(answer["choices"][0]["message"].get("content") or "") for answer in answers]
