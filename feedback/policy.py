"""Fresh samples of a model: single responses, or episodes in which an environment answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy
import torch
from pydantic import Field
from torch import Tensor

from didact.core.errors import PluginError, RecipeError, unknown
from didact.core.protocols import Environment, Names, Run
from didact.core.ranges import Count, Fraction, NonNegative, Whole
from didact.core.seeds import seed_of, seeds_after
from didact.core.types import Group, Prompt, Request, Sample, Sampling, Trajectory, changed

NO_TOKENS, NO_FLAGS = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)


@dataclass(frozen=True)
class PolicySource:
    """n fresh samples per prompt, with the log-probability of each token as it was drawn.

    With an environment every sample becomes an episode: response, reply, response, … in one
    trajectory. Replies are context: untrainable, `behavior_logprobs` 0. The episode ends when the
    environment says nothing, after `turns` responses, at a truncated response, or when a reply
    leaves no room within `max_tokens`, which then counts as truncated.

    Attributes:
        n: samples per prompt.
        model: who is sampled.
        origin: what the trajectories are called; None: the model's name.
        temperature, top_p, top_k: as in `Sampling`; None: the run's.
        max_tokens: longest trajectory in tokens, replies included; None: the run's.
        environment: what answers the responses.
        turns: most responses of one episode, for a growing horizon a schedule; None: the
            environment decides.
        turn_tokens: longest single response in tokens; None: whatever room is left.
        timed: write the signal "duration": seconds that the environment took for its replies to an
            episode. Wall time, so not repeatable.
        read: what `text` holds, so what rewards and critics read: the "last" response of an
            episode, or "all" of it with the replies.
    """

    n: Count = 8
    model: str = "policy"
    origin: str | None = None
    temperature: NonNegative | None = None
    top_p: Fraction | None = None
    top_k: Whole | None = None
    max_tokens: Count | None = None
    environment: Environment | None = None
    turns: Annotated[float, Field(ge=1)] | None = None
    turn_tokens: Count | None = None
    timed: bool = False
    read: Literal["last", "all"] = "last"

    @property
    def adds(self) -> Names:
        """Episodes also carry the signal "turns", their number of responses."""
        own = {"behavior_logprobs"} | ({"turns"} if self.environment else set())
        return frozenset(own | ({"duration"} if self.timed else set()))

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        sampling = sampling_of(
            run, self.temperature, self.top_p, self.top_k, max_tokens=self.max_tokens
        )
        silent = [started(group.prompt, self.origin or self.model) for group in groups]
        if self.timed:
            silent = [episode.with_signals(duration=0.0) for episode in silent]
        live = [episode for episode in silent for _ in range(self.n)]
        self._play(live, sampling, run)
        return [live[at : at + self.n] for at in range(0, len(live), self.n)]

    def _play(self, live: list[Trajectory], sampling: Sampling, run: Run) -> None:
        """Play the episodes to their ends, in place."""
        greedy = " greedy" if sampling.temperature == 0 else ""  # takes no seed from the samples
        seeds = seeds_of(run, [episode.prompt for episode in live], self.model + greedy)
        active, turn = list(range(len(live))), 0
        while active:
            episodes = [live[at] for at in active]
            most = self.turn_tokens or sampling.max_tokens
            limits = [min(sampling.max_tokens - each.tokens.numel(), most) for each in episodes]
            requests = [
                Request(_context(each), _turn(seeds[at], turn), limit)
                for at, each, limit in zip(active, episodes, limits, strict=True)
            ]
            longer = said(episodes, ask(run, self.model, requests, sampling), run)
            if self.environment is not None:
                longer = [episode.with_signals(turns=turn + 1.0) for episode in longer]
            for at, episode in zip(active, longer, strict=True):
                live[at] = episode
            active = self._answered(live, active, turn, sampling.max_tokens, run)
            turn += 1
        if self.read == "all":
            texts = run.renderer.texts([episode.tokens for episode in live])
            live[:] = [changed(e, text=text) for e, text in zip(live, texts, strict=True)]

    def _answered(
        self, live: list[Trajectory], active: Sequence[int], turn: int, most: int, run: Run
    ) -> list[int]:
        """Append the environment's replies in place; which episodes go on."""
        environment = self.environment
        if environment is None or (self.turns is not None and turn + 1 >= self.turns):
            return []
        open_ = [at for at in active if not live[at].truncated]

        def reply(episodes: Sequence[Trajectory]) -> list[tuple[str | None, float]]:
            return [_timed(environment, episode, turn) for episode in episodes]

        going = []
        for at, (text, seconds) in zip(
            open_, run.world.map(reply, [live[at] for at in open_]), strict=True
        ):
            if self.timed:
                live[at] = live[at].with_signals(duration=live[at].signals["duration"] + seconds)
            if text is None:
                continue
            tokens = run.renderer.response(text, end=False)
            if len(live[at].tokens) + len(tokens) >= most:
                live[at] = changed(live[at], truncated=True)
                continue
            live[at] = told(live[at], tokens)
            going.append(at)
        return going


def sampling_of(
    run: Run,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
) -> Sampling:
    """The run's sampling with what a source sets differently."""
    own = run.sampling
    return Sampling(
        temperature=own.temperature if temperature is None else temperature,
        top_p=own.top_p if top_p is None else top_p,
        top_k=own.top_k if top_k is None else top_k,
        max_tokens=own.max_tokens if max_tokens is None else max_tokens,
    )


def seeds_of(run: Run, prompts: Sequence[Prompt], role: str) -> list[int]:
    """A seed for each prompt; the k-th time that a step asks for one of a prompt gives sample k.

    `seed_of(run.seed, run.step, prompt.id, k)` for the policy, with the role as a further name for
    others. k goes on counting over further calls in the same step (more rounds of `fill`, a second
    `rollout`), so neither batching nor chunks matter, and no two samples share a seed.
    """
    if run.drawn and next(iter(run.drawn))[0] != run.step:
        run.drawn.clear()
    more = () if role == "policy" else (role,)
    sample_of = {id: seeds_after(run.seed, run.step, id) for id in {p.id for p in prompts}}
    seeds = []
    for prompt in prompts:
        key = (run.step, role, prompt.id)
        seeds.append(sample_of[prompt.id](run.drawn[key], *more))
        run.drawn[key] += 1
    return seeds


def ask(run: Run, model: str, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]:
    """One sample per request, in order, none longer than its limit; every rank generates a stripe.

    All ranks call their generator even for an empty stripe, because a sharded one works together.
    Adds the tokens to `run.metrics["tokens/generated"]`. `entropy/MODEL` is the mean of minus the
    log-probabilities of those that were not greedy, of which there are `tokens/sampled/MODEL`: an
    unbiased estimate of the entropy of what was sampled from.
    """
    if model not in run.generators:
        raise RecipeError(f"rollout: {unknown('model to sample from', model, run.generators)}")
    generator = run.generators[model]
    if not requests:
        return []
    limits = [request.limit(sampling) for request in requests]
    if min(limits) < 1:
        raise PluginError(f"a request asks for {min(limits)} tokens; it must ask for 1 or more.")
    longest = replace(sampling, max_tokens=max(limits))
    samples = run.world.map(lambda stripe: generator.generate(stripe, longest), requests)
    tokens = float(sum(sample.tokens.numel() for sample in samples))
    run.metrics["tokens/generated"] = run.metrics.get("tokens/generated", 0.0) + tokens
    if sampling.temperature > 0:
        surprise = -float(torch.cat([sample.logprobs for sample in samples]).double().sum())
        before = run.metrics.get(f"tokens/sampled/{model}", 0.0)
        mean = run.metrics.get(f"entropy/{model}", 0.0)
        run.metrics[f"tokens/sampled/{model}"] = before + tokens
        run.metrics[f"entropy/{model}"] = (mean * before + surprise) / max(before + tokens, 1.0)
    return [_cut(sample, limit) for sample, limit in zip(samples, limits, strict=True)]


def _cut(sample: Sample, limit: int) -> Sample:
    """The sample as it would have been with this limit in tokens."""
    if sample.tokens.numel() <= limit:
        return sample
    return replace(
        sample, tokens=sample.tokens[:limit], logprobs=sample.logprobs[:limit], truncated=True
    )


def _timed(environment: Environment, episode: Trajectory, turn: int) -> tuple[str | None, float]:
    """The reply, and how many seconds it took."""
    began = time.perf_counter()
    text = environment.reply(episode.prompt, episode.text, turn)
    return text, time.perf_counter() - began


def _context(so_far: Trajectory) -> Tensor:
    tokens = so_far.prompt.tokens
    return torch.cat([tokens, so_far.tokens]) if so_far.tokens.numel() else tokens


def _turn(seed: int, turn: int) -> int:
    return seed if turn == 0 else seed_of(seed, turn)


def started(prompt: Prompt, origin: str) -> Trajectory:
    """An episode in which nothing has been said."""
    return Trajectory(prompt, NO_TOKENS, NO_FLAGS, origin)


def said(episodes: Sequence[Trajectory], samples: Sequence[Sample], run: Run) -> list[Trajectory]:
    """Each episode with one more response; its version is the oldest that spoke in it."""
    texts = run.renderer.texts([sample.tokens for sample in samples])
    own = numpy.ones(max((sample.tokens.numel() for sample in samples), default=0), dtype=bool)
    return [
        _longer(
            so_far,
            sample.tokens,
            sample.logprobs,
            torch.from_numpy(own[: sample.tokens.numel()].copy()),  # half of torch.full's time
            text,
            sample.truncated,
            sample.version if so_far.version is None else min(so_far.version, sample.version),
        )
        for so_far, sample, text in zip(episodes, samples, texts, strict=True)
    ]


def told(so_far: Trajectory, tokens: Tensor) -> Trajectory:
    """The episode with a reply: tokens that the policy did not write."""
    flags = torch.zeros(len(tokens), dtype=torch.bool)
    text, truncated, version = so_far.text, so_far.truncated, so_far.version
    return _longer(so_far, tokens, torch.zeros(len(tokens)), flags, text, truncated, version)


def _longer(
    so_far: Trajectory,
    tokens: Tensor,
    logprobs: Tensor,
    flags: Tensor,
    text: str,
    truncated: bool,
    version: int | None,
) -> Trajectory:
    """The episode with further tokens, and the log-probabilities they were drawn with."""
    if so_far.tokens.numel():
        tokens = torch.cat([so_far.tokens, tokens])
        flags = torch.cat([so_far.trainable, flags])
        logprobs = torch.cat([so_far.columns["behavior_logprobs"], logprobs])
    return changed(
        so_far,
        tokens=tokens,
        trainable=flags,
        text=text,
        truncated=truncated,
        version=version,
        columns={**so_far.columns, "behavior_logprobs": logprobs},
    )
