"""The generator on plain transformers: batched decoding with a key-value cache, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from didact.core.backends import alone, attention, engines
from didact.core.backends.sampling import draw, uniforms
from didact.core.errors import RecipeError, RunError
from didact.core.protocols import Learner
from didact.core.ranges import Count
from didact.core.types import Request, Sample, Sampling

SHRINK = 0.875
"""Finished rows leave the cache when at most this share of its rows is still decoding."""


class HFGenerator:
    """Samples from a model of its own, whose weights are copied from a learner.

    What a request gets depends on its context, its seed and the weights, and not on the other
    requests beside it (up to the rounding of a differently shaped matrix product).

    Args:
        model: from `load_model`; the generator's own, not the learner's.
        tokenizer: its end-of-sequence token ends a response, as do those of the model's generation
            settings.
        max_batch: most cached positions (prompt and longest response, times requests) at once.
        device: "auto" is this process's GPU if there is one.

    Attributes:
        progress: called with (requests finished, requests in all) after every decoding step.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_batch: Count = 131072, device: str = "auto"
    ) -> None:
        self.model = model.requires_grad_(False).eval().to(engines.device(device))
        if str(self.model.config._attn_implementation).startswith("flash"):
            self.model.set_attn_implementation(attention.register())
        self.named = dict(self.model.named_parameters())
        self.device = next(iter(self.named.values())).device
        self.max_batch = max_batch
        self.progress: Callable[[int, int], None] | None = None
        self.ends = _ends(self.model, tokenizer, self.device)
        self.count = 0
        self._check_rows()

    @torch.no_grad()
    def _check_rows(self) -> None:
        """Refuse models that say something else to a padded, cached context than to it alone."""
        config, size = self.model.config, self.model.config.vocab_size
        if alone.recurrent(config):
            raise RecipeError(
                f"generate: model type '{config.model_type}' hands a state on from token to token, "
                f"through padding too; use the 'vllm' generator."
            )
        rows = alone.tried(size)
        first, _, last = rows
        decoding = Decoding(self.model, rows, 1)
        found = [decoding.logits]
        decoding.keep(torch.tensor([True, False, True], device=self.device))
        decoding.advance(torch.stack([first[0], last[0]]).to(self.device))
        found.append(decoding.logits)
        longer = [torch.cat([row, row[:1]]) for row in (first, last)]
        own = self._alone([*rows, *longer])
        moved = self._alone([alone.begun_otherwise(row, size) for row in rows]) - own[: len(rows)]
        if not alone.same(torch.cat(found), own, moved):
            raise RecipeError(
                f"generate: {alone.called(config)} does not keep padded contexts apart: give it "
                f"another 'attention', or use the 'vllm' generator."
            )

    def _alone(self, contexts: Sequence[Tensor]) -> Tensor:
        """Logits of the next token of each context, [n, V], by forwards of their own."""
        each = [self.model(ids[None].to(self.device), use_cache=False) for ids in contexts]
        return torch.stack([out.logits[0, -1] for out in each])

    @property
    def version(self) -> int:
        """Number of weight syncs so far."""
        return self.count

    def sync(self, learner: Learner) -> None:
        """Take over the learner's weights; the version goes up by one."""
        self.resume(learner, self.count + 1)

    @torch.no_grad()
    def resume(self, learner: Learner, version: int) -> None:
        """Take over the learner's weights as those of a given version.

        Raises:
            RunError: the learner has not exactly the parameters that this model has.
        """
        own = dict(self.named)
        for name, value in learner.weights():
            target = own.pop(name, None)
            if target is None:
                raise RunError(f"sync: the generator's model has no parameter '{name}'.")
            if target.shape != value.shape:
                raise RunError(
                    f"sync: parameter '{name}' has shape {tuple(value.shape)} in the learner and "
                    f"{tuple(target.shape)} in the generator."
                )
            target.copy_(value)
        if own:
            raise RunError(f"sync: the learner did not send {', '.join(sorted(own)[:5])}.")
        self.count = version

    def rest(self) -> None:
        """It keeps only its weights between two uses."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]:
        """Continue every request; results in the order of the requests."""
        out: list[Sample | None] = [None] * len(requests)
        done = 0
        for positions in self._batches(requests, sampling.max_tokens):
            report = self._reporter(done, len(requests))
            made = self._decode([requests[at] for at in positions], sampling, report)
            for at, sample in zip(positions, made, strict=True):
                out[at] = sample
            done += len(positions)
        return [sample for sample in out if sample is not None]

    def _reporter(self, before: int, total: int) -> Callable[[int], None]:
        progress = self.progress
        if progress is None:
            return lambda finished: None
        return lambda finished: progress(before + finished, total)

    def _batches(self, requests: Sequence[Request], longest: int) -> Iterator[list[int]]:
        """Positions of requests of similar context length that fit into the cache together."""
        batch: list[int] = []
        for at in sorted(range(len(requests)), key=lambda at: (-len(requests[at].context), at)):
            width = len(requests[batch[0]].context) + longest if batch else 0
            if batch and (len(batch) + 1) * width > self.max_batch:
                yield batch
                batch = []
            batch.append(at)
        if batch:
            yield batch

    @torch.no_grad()
    def _decode(
        self, requests: Sequence[Request], sampling: Sampling, report: Callable[[int], None]
    ) -> list[Sample]:
        steps = sampling.max_tokens
        numbers = uniforms([request.seed for request in requests], steps).to(self.device)
        tokens = torch.zeros(len(requests), steps, dtype=torch.int64, device=self.device)
        logprobs = torch.zeros(len(requests), steps, device=self.device)
        lengths = torch.full((len(requests),), steps, device=self.device)
        ended = torch.zeros(len(requests), dtype=torch.bool, device=self.device)
        decoding = Decoding(self.model, [request.context for request in requests], steps)
        for step in range(steps):
            rows = decoding.rows
            drawn, logprob = draw(decoding.logits, numbers[rows, step], sampling)
            running = ~ended[rows]
            tokens[rows, step] = torch.where(running, drawn, 0)
            logprobs[rows, step] = torch.where(running, logprob, 0.0)
            stops = running & torch.isin(drawn, self.ends)
            lengths[rows[stops]] = step + 1
            ended[rows[stops]] = True
            alive = running & ~stops
            left = int(alive.sum())
            report(len(requests) - left)
            if not left or step + 1 == steps:
                break
            if left <= SHRINK * len(rows):
                decoding.keep(alive)
                drawn = drawn[alive]
            decoding.advance(drawn)
        return self._samples(tokens.cpu(), logprobs.cpu(), lengths.tolist(), ended.tolist())

    def _samples(
        self, tokens: Tensor, logprobs: Tensor, lengths: list[int], ended: list[bool]
    ) -> list[Sample]:
        if bool(logprobs.isnan().any()):
            at, step = logprobs.isnan().nonzero()[0].tolist()
            raise RunError(
                f"generate: the logits of token {step + 1} of a response (the {at + 1}. of "
                f"{len(lengths)}) are no distribution: NaN, at weight version {self.count}."
            )
        return [
            Sample(
                tokens[at, :length].clone(),
                logprobs[at, :length].clone(),
                truncated=not ended[at],
                version=self.count,
            )
            for at, length in enumerate(lengths)
        ]


class Decoding:
    """A batch on its way: left-padded contexts, a key-value cache, and the next logits.

    Attributes:
        rows: which requests are still in the batch, int64 [b].
        logits: of their next token, [b, V].
    """

    def __init__(self, model: Any, contexts: Sequence[Tensor], steps: int) -> None:
        from transformers import DynamicCache

        self.model = model
        device = next(model.parameters()).device
        lengths = torch.tensor([len(context) for context in contexts])
        width = int(lengths.max())
        self.cache = DynamicCache(config=model.config)
        _check_window(self.cache, width + steps)
        ids = torch.zeros(len(contexts), width, dtype=torch.int64)
        for at, context in enumerate(contexts):
            ids[at, width - len(context) :] = context
        self.rows = torch.arange(len(contexts), device=device)
        padding = (width - lengths).to(device)
        positions = (torch.arange(width, device=device) - padding[:, None]).clamp(min=0)
        self.position = lengths.to(device)
        self.real: Tensor | None = None
        mask = None
        if int(lengths.min()) < width:
            self.real = torch.arange(width + steps, device=device) >= padding[:, None]
            mask = _prefill_mask(self.real[:, :width])
        self.length = width
        self._forward(ids.to(device), positions, mask)

    def advance(self, tokens: Tensor) -> None:
        """Feed one more token per row."""
        self.length += 1
        mask = None if self.real is None else self.real[:, None, None, : self.length]
        self._forward(tokens[:, None], self.position[:, None], mask)
        self.position = self.position + 1

    def keep(self, alive: Tensor) -> None:
        """Drop all rows but these (bool [b]) from the cache."""
        chosen = alive.nonzero()[:, 0]
        self.rows, self.position = self.rows[chosen], self.position[chosen]
        self.real = None if self.real is None else self.real[chosen]
        self.cache.batch_select_indices(chosen)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> None:
        if mask is not None and self.model.config._attn_implementation == "eager":
            lowest = torch.finfo(self.model.dtype).min
            mask = torch.zeros_like(mask, dtype=self.model.dtype).masked_fill(~mask, lowest)
        out = self.model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits: Tensor = out.logits[:, -1]


def _prefill_mask(real: Tensor) -> Tensor:
    """Causal, without padding; bool [B, 1, P, P]. Padding sees itself, or its softmax is empty."""
    width = real.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(width, dtype=torch.bool, device=real.device)
    return ((causal & real[:, None, :]) | itself)[:, None]


def _check_window(cache: Any, longest: int) -> None:
    slides = [each.sliding_window for each in cache.layers if getattr(each, "is_sliding", False)]
    if slides and longest > min(slides):
        raise RunError(
            f"generate: {longest} tokens exceed the model's sliding window of {min(slides)}, which "
            f"this generator does not have; use the 'vllm' generator, or fewer tokens."
        )


def _ends(model: Any, tokenizer: Any, device: torch.device) -> Tensor:
    settings = getattr(model, "generation_config", None)
    more = getattr(settings, "eos_token_id", None)
    listed = more if isinstance(more, list) else [] if more is None else [more]
    return torch.tensor(sorted({tokenizer.eos_token_id, *listed}), device=device)
