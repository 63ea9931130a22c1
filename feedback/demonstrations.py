"""Expert responses: whole, or as a beginning that the policy completes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from didact.core.errors import RecipeError
from didact.core.protocols import Failed, Names, RewardProvider, Run
from didact.core.ranges import Count, Fraction, NonNegative, Share, Whole
from didact.core.seeds import seed_of
from didact.core.types import Group, Prompt, Request, Sample, Trajectory
from didact.feedback.policy import ask, sampling_of, seeds_of


@dataclass(frozen=True)
class DemonstrationSource:
    """Up to n expert responses per prompt, of origin "demonstration", all tokens trainable.

    They carry no behaviour log-probabilities: nobody knows the expert's. Counted in `run.metrics`:
    `demonstrations/offered`, `demonstrations/missing` (prompts that have none),
    `demonstrations/overlong`, `demonstrations/rejected`, `demonstrations/unverified`.

    Attributes:
        n: most per prompt.
        share: part of the prompts that are offered any; which, depends on the run's seed and the
            prompt alone, so it is the same for every method and at every visit.
        max_tokens: longest response in tokens; None: no limit.
        overlong: what happens to a longer one: "skip" it, or "cut" it at the limit and put the
            end-of-sequence token over the last one, as ReLIFT does (TheRoadQaQ/ReLIFT at eb95454f,
            trainer.py, replace_response_in_batch).
        pick: which, if a prompt has more: the "first", or a "random" choice that depends on seed,
            step and prompt.
        verify: offer only what this reward accepts; what it cannot score is not offered.
        solved_at: least reward that is accepted.
    """

    n: Count = 1
    share: Share = 1.0
    max_tokens: Count | None = None
    overlong: Literal["skip", "cut"] = "skip"
    pick: Literal["first", "random"] = "first"
    verify: RewardProvider | None = None
    solved_at: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise RecipeError(f"demonstrations: 'share' is from 0 to 1, not {self.share}.")

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        prompts = [group.prompt for group in groups]
        experts = run.renderer.demonstrations([prompt.problem for prompt in prompts])
        fitting = [self._fitting(*each, run) for each in zip(prompts, experts, strict=True)]
        texts = iter(run.renderer.texts([tokens for row in fitting for tokens, _ in row]))
        found = [
            [_shown(prompt, *one, next(texts)) for one in row]
            for prompt, row in zip(prompts, fitting, strict=True)
        ]
        accepted = self._verified([one for row in found for one in row], run)
        kept = [[one for one in row if accepted[id(one)]] for row in found]
        offered = [row[: self.n] for row in kept]
        _count(run, "missing", sum(not each for each in experts))
        _count(run, "offered", sum(map(len, offered)))
        return offered

    def _fitting(
        self, prompt: Prompt, experts: Sequence[Tensor], run: Run
    ) -> list[tuple[Tensor, bool]]:
        """Tokens of what may be offered, and whether they were cut."""
        limit = math.inf if self.max_tokens is None else self.max_tokens
        tokens = list(experts)
        if not self._demonstrated(prompt, run):
            return []
        if self.pick == "random":
            random.Random(seed_of(run.seed, run.step, prompt.id, "demonstrations")).shuffle(tokens)
        if self.overlong == "skip":
            _count(run, "overlong", sum(len(one) > limit for one in tokens))
            tokens = [one for one in tokens if len(one) <= limit]
        if self.verify is None:
            tokens = tokens[: self.n]
        if self.overlong == "cut":
            _count(run, "overlong", sum(len(one) > limit for one in tokens))
        return [
            (torch.cat([one[: int(limit) - 1], one[-1:]]), True)
            if len(one) > limit
            else (one, False)
            for one in tokens
        ]

    def _demonstrated(self, prompt: Prompt, run: Run) -> bool:
        if self.share == 1.0:
            return True
        return random.Random(seed_of(run.seed, prompt.id, "demonstrated")).random() < self.share

    def _verified(self, shown: Sequence[Trajectory], run: Run) -> dict[int, bool]:
        verify = self.verify
        if verify is None or not shown:
            return {id(one): True for one in shown}
        values = run.world.map(lambda part: verify(part) if part else [], shown)
        failed = [isinstance(value, Failed) for value in values]
        good = [not isinstance(value, Failed) and value >= self.solved_at for value in values]
        _count(run, "unverified", sum(failed))
        _count(run, "rejected", len(good) - sum(good) - sum(failed))
        return {id(one): fine for one, fine in zip(shown, good, strict=True)}


def _shown(prompt: Prompt, tokens: Tensor, truncated: bool, text: str) -> Trajectory:
    flags = torch.ones_like(tokens, dtype=torch.bool)
    return Trajectory(prompt, tokens, flags, "demonstration", text, truncated)


@dataclass(frozen=True)
class PrefixSource:
    """Responses that begin with an expert's first tokens and that the policy completes.

    L = floor(u |y*|) tokens of the prompt's first demonstration y*, never its last token, with u
    drawn uniformly from [low, high] for every response. Prefix-RFT (ZeroYuHuang/prefix_rft at
    5f5d2a1f) draws from [low(t), 0.95] with `low` falling by a cosine from 0.95 to 0. The anchors
    of BREAD are such prefixes too. So are, in the response instead of the prompt, the hints of UFT
    (liumy2010/UFT at ad3c8ec): `parts: 5, parts_drawn: binomial, shared: true`; its baselines are
    `spread` with low = high = k/5 in stages, and with low 0 and high 1.

    Origin "prefix". Column `prefix`: 1.0 on the expert's tokens, 0.0 on the policy's. Signal
    `prefix_id`: 1, 2, … for the responses to a prompt, since each has a prefix of its own; `mark`
    can give the rollouts without prefix a 0. The expert's tokens have no behaviour
    log-probability, so `behavior_logprobs` is there only where they carry no loss (then 0 on them)
    or where there are none.

    Attributes:
        n: responses per prompt.
        low, high: ends of the share of the demonstration, each in [0, 1].
        parts: cut y* into so many equal parts, of which whole ones are taken; 0: single tokens.
        parts_drawn: how many: as many of them as the share says ("spread"; a share k/parts is k),
            or each with the share as its probability ("binomial").
        shared: the responses to a prompt begin alike, and have the `prefix_id` 1.
        trainable: whether the expert's tokens carry loss.
        model: who completes.
        temperature, top_p, top_k: as in `Sampling`; None: the run's.
        max_tokens: longest response, the prefix included; None: the run's.
    """

    n: Count = 1
    low: Share = 0.0
    high: Share = 0.95
    parts: Whole = 0
    parts_drawn: Literal["spread", "binomial"] = "spread"
    shared: bool = False
    trainable: bool = True
    model: str = "policy"
    temperature: NonNegative | None = None
    top_p: Fraction | None = None
    top_k: Whole | None = None
    max_tokens: Count | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise RecipeError(
                f"prefix: low and high are shares with 0 <= low <= high <= 1, not {self.low} and "
                f"{self.high}."
            )

    @property
    def adds(self) -> Names:
        return frozenset({"prefix", "prefix_id"})

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        sampling = sampling_of(run, self.temperature, self.top_p, self.top_k, self.max_tokens)
        known = run.renderer.demonstrations([group.prompt.problem for group in groups])
        asked = [(g.prompt, all_[0]) for g, all_ in zip(groups, known, strict=True) if all_]
        prompts = [prompt for prompt, _ in asked for _ in range(self.n)]
        experts = [expert for _, expert in asked for _ in range(self.n)]
        seeds = seeds_of(run, prompts, "prefix")
        most = sampling.max_tokens - 1  # room for a token of the policy
        alike = seeds[:: self.n]  # the seed of a prompt's first response
        drawn = [alike[at // self.n] if self.shared else own for at, own in enumerate(seeds)]
        prefixes = [self._prefix(*each)[:most] for each in zip(experts, drawn, strict=True)]
        requests = [
            Request(torch.cat([prompt.tokens, prefix]), seed, sampling.max_tokens - len(prefix))
            for prompt, prefix, seed in zip(prompts, prefixes, seeds, strict=True)
        ]
        samples = ask(run, self.model, requests, sampling)
        made = iter(zip(prompts, prefixes, samples, strict=True))
        _count(run, "missing", sum(not each for each in known))
        return [
            [self._joined(*next(made), number, run) for number in range(self.n)] if each else []
            for each in known
        ]

    def _joined(
        self, prompt: Prompt, prefix: Tensor, rest: Sample, number: int, run: Run
    ) -> Trajectory:
        which = 1 if self.shared else number + 1
        return continued(prompt, prefix, rest, run, number=which, trainable=self.trainable)

    def _prefix(self, expert: Tensor, seed: int) -> Tensor:
        rng = random.Random(seed_of(seed, "share"))
        length = self._length(len(expert), rng.uniform(self.low, self.high), rng)
        return expert[: min(length, len(expert) - 1)]

    def _length(self, whole: int, share: float, rng: random.Random) -> int:
        if not self.parts:
            return int(share * whole)
        taken = min(int(share * (self.parts + 1) + 1e-9), self.parts)
        if self.parts_drawn == "binomial":
            taken = sum(rng.random() < share for _ in range(self.parts))
        return round(taken * whole / self.parts)


def continued(
    prompt: Prompt,
    prefix: Tensor,
    sample: Sample,
    run: Run,
    *,
    number: int,
    trainable: bool,
    column: str = "prefix",
) -> Trajectory:
    """A response that begins with tokens the policy did not write just now; origin "prefix".

    Args:
        number: the signal `prefix_id`.
        trainable: whether the prefix carries loss.
        column: which is 1.0 on the prefix; "prefix" says that an expert wrote it.
    """
    tokens = torch.cat([prefix, sample.tokens])
    given = torch.arange(len(tokens)) < len(prefix)
    columns = {column: given.float()}
    if not trainable or len(prefix) == 0:
        columns["behavior_logprobs"] = torch.cat([torch.zeros(len(prefix)), sample.logprobs])
    return Trajectory(
        prompt,
        tokens=tokens,
        trainable=torch.ones_like(given) if trainable else ~given,
        origin="prefix",
        text=run.renderer.text(tokens),
        truncated=sample.truncated,
        version=sample.version,
        signals={"prefix_id": float(number)},
        columns=columns,
    )


def _count(run: Run, what: str, number: int) -> None:
    name = f"demonstrations/{what}"
    run.metrics[name] = run.metrics.get(name, 0.0) + number
