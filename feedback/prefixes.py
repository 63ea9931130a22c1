"""Responses continued from a chosen place: own successes cut short, experts' as far as needed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from didact.core.errors import RecipeError
from didact.core.protocols import Failed, Names, RewardProvider, Run
from didact.core.ranges import Count, Fraction, NonNegative, Share, Whole
from didact.core.seeds import seed_of
from didact.core.types import Group, Prompt, Request, Sampling, Trajectory
from didact.feedback.demonstrations import continued
from didact.feedback.policy import ask, sampling_of, seeds_of
from didact.feedback.shelf import signal


def step_ends(tokens: Tensor, separator: str, run: Run) -> list[int]:
    """Lengths of the beginnings that end with the separator, and the whole length.

    A token that contains the separator ends a step.
    """
    pieces = run.renderer.texts([tokens[at : at + 1] for at in range(len(tokens))])
    found = [at for at, piece in enumerate(pieces, 1) if separator in piece]
    return found if found and found[-1] == len(tokens) else [*found, len(tokens)]


def draw_beginnings(steps: int, share: float, decay: float, rng: random.Random) -> list[int]:
    """ceil(share x steps) indices in [0, steps), with replacement, with weights decay^index."""
    weights = [decay**at for at in range(steps)]
    return rng.choices(range(steps), weights=weights, k=ceil(share * steps))


@dataclass(frozen=True)
class OwnPrefixSource:
    """Continues beginnings of a group's own best answer: the partial states of ReST-GRPO.

    arXiv:2508.19576 (THUDM/ReST-RL @ b86959b4): if rewards differ and the best is good, its
    beginnings by whole lines become new prompts, ceil(share x lines) of them, drawn with
    replacement with weights decay^line. Reconstruction: the release makes a data set of such
    prompts before each round of training; here they follow in the same step, and the beginning
    stands in the response without loss instead of in the prompt. Groups of their own, as the
    release has, are `advantage: {use: stratified, bind: {strata: prefix_id}}`.

    Origin "prefix"; column `given` is 1.0 on the beginning, signal `prefix_id` is 1, 2, … by drawn
    beginning. Counted in `run.metrics`: `prefix/groups`, those that had a good answer.

    Attributes:
        n: continuations of each beginning.
        share: of the number of lines that is drawn.
        decay: of the weights.
        at_least: reward of the best answer below which a group has none.
        spread: standard deviation (population) of rewards below which a group has none.
        separator: what ends a line.
        temperature, top_p, top_k: as in `Sampling`; None: the run's.
        max_tokens: longest response, the beginning included; None: the run's.
    """

    n: Count = 8
    share: Share = 0.5
    decay: NonNegative = 0.95
    at_least: float = 0.9
    spread: NonNegative = 0.05
    separator: str = "\n"
    temperature: NonNegative | None = None
    top_p: Fraction | None = None
    top_k: Whole | None = None
    max_tokens: Count | None = None

    @property
    def needs(self) -> Names:
        return frozenset({"reward", "reward_std"})

    @property
    def adds(self) -> Names:
        return frozenset({"given", "prefix_id"})

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        sampling = sampling_of(run, self.temperature, self.top_p, self.top_k, self.max_tokens)
        chosen = [self._beginnings(group, sampling.max_tokens - 1, run) for group in groups]
        found = run.metrics.get("prefix/groups", 0.0) + sum(map(bool, chosen))
        run.metrics["prefix/groups"] = found
        places = [
            Place(group.prompt, prefix, number + 1)
            for group, prefixes in zip(groups, chosen, strict=True)
            for number, prefix in enumerate(prefixes)
            for _ in range(self.n)
        ]
        made = iter(_continue(places, sampling, run, "given"))
        return [[next(made) for _ in range(len(some) * self.n)] for some in chosen]

    def _beginnings(self, group: Group, most: int, run: Run) -> list[Tensor]:
        own = [m for m in group.members if m.origin == "policy"]
        if not own or group.signals.get("reward_std", 0.0) < self.spread:
            return []
        best = max(own, key=lambda m: signal(m, "reward", "own_prefix"))
        if signal(best, "reward", "own_prefix") < self.at_least:
            return []
        ends = [end for end in step_ends(best.tokens, self.separator, run)[:-1] if end <= most]
        if not ends:
            return []
        rng = random.Random(seed_of(run.seed, run.step, group.prompt.id, "own_prefix"))
        return [
            best.tokens[: ends[at]]
            for at in draw_beginnings(len(ends), self.share, self.decay, rng)
        ]


@dataclass(frozen=True)
class BranchSource:
    """Continues an expert's response from the shortest beginning after which the policy succeeds.

    The anchors of BREAD, arXiv:2506.17211. Reconstruction from a description: no code was found,
    and neither the order of the search nor the grid is stated. A beginning is tried with n
    continuations, and is good if one of them succeeds; those are what the source gives. Nothing for
    prompts without demonstration, or if no beginning is good.

    Origin "prefix"; column `prefix` is 1.0 on the expert's tokens, which carry no loss; signal
    `prefix_id` 1. Counted in `run.metrics`: `branch/searched`, `branch/found`, `branch/failed`
    (rewards that could not be computed), and `branch/share`, the mean found share of the expert's.

    Attributes:
        reward: what decides success.
        n: continuations of a beginning.
        parts: the expert's tokens are cut into so many equal parts; beginnings are whole parts.
        search: "linear" from the shortest, or "binary", which needs fewer tries and supposes that
            a longer beginning is never harder.
        solved_at: least reward of a success.
        temperature, top_p, top_k: as in `Sampling`; None: the run's.
        max_tokens: longest response, the beginning included; None: the run's.
    """

    reward: RewardProvider
    n: Count = 8
    parts: Annotated[int, Field(ge=2)] = 4
    search: Literal["linear", "binary"] = "binary"
    solved_at: float = 1.0
    temperature: NonNegative | None = None
    top_p: Fraction | None = None
    top_k: Whole | None = None
    max_tokens: Count | None = None

    def __post_init__(self) -> None:
        if self.parts < 2 or self.n < 1:
            raise RecipeError(
                f"branch: 'parts' is at least 2 and 'n' at least 1, not {self.parts} and {self.n}."
            )

    @property
    def adds(self) -> Names:
        return frozenset({"prefix", "prefix_id"})

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        sampling = sampling_of(run, self.temperature, self.top_p, self.top_k, self.max_tokens)
        known = run.renderer.demonstrations([group.prompt.problem for group in groups])
        searches = [
            Search(group.prompt, experts, self.parts)
            for group, experts in zip(groups, known, strict=True)
        ]
        while open_ := [one for one in searches if one.open]:
            tries = [one.next(self.search) for one in open_]
            places = [
                Place(one.prompt, one.beginning(k, sampling.max_tokens - 1), 1)
                for one, k in zip(open_, tries, strict=True)
                for _ in range(self.n)
            ]
            made = _continue(places, sampling, run, "prefix")
            good = self._solved(made, run)
            for at, (one, k) in enumerate(zip(open_, tries, strict=True)):
                mine = slice(at * self.n, (at + 1) * self.n)
                one.tried(k, made[mine], any(good[mine]))
        found = [one for one in searches if one.members]
        _count(run, "searched", sum(bool(experts) for experts in known))
        _count(run, "found", len(found))
        if found:
            run.metrics["branch/share"] = sum(one.found for one in found) / len(found) / self.parts
        return [one.members for one in searches]

    def _solved(self, made: Sequence[Trajectory], run: Run) -> list[bool]:
        values = run.world.map(lambda part: self.reward(part) if part else [], made)
        _count(run, "failed", sum(isinstance(value, Failed) for value in values))
        return [not isinstance(value, Failed) and value >= self.solved_at for value in values]


@dataclass
class Search:
    """The search for one prompt: beginnings of low..high parts are still in question."""

    prompt: Prompt
    experts: Sequence[Tensor]
    parts: int
    low: int = 1
    high: int = field(init=False)
    found: int = 0
    members: Sequence[Trajectory] = ()

    def __post_init__(self) -> None:
        self.high = self.parts - 1 if self.experts else 0

    @property
    def open(self) -> bool:
        return self.low <= self.high

    def next(self, how: Literal["linear", "binary"]) -> int:
        return self.low if how == "linear" else (self.low + self.high) // 2

    def beginning(self, parts: int, most: int) -> Tensor:
        expert = self.experts[0]
        return expert[: min(parts * len(expert) // self.parts, len(expert) - 1, most)]

    def tried(self, parts: int, made: Sequence[Trajectory], solved: bool) -> None:
        if solved:
            self.found, self.members, self.high = parts, made, parts - 1
        else:
            self.low = parts + 1


@dataclass(frozen=True)
class Place:
    """Where a continuation starts: after these tokens of a response to a prompt."""

    prompt: Prompt
    prefix: Tensor
    number: int


def _continue(
    places: Sequence[Place], sampling: Sampling, run: Run, column: str
) -> list[Trajectory]:
    """One continuation for each place, whose prefix carries no loss."""
    seeds = seeds_of(run, [place.prompt for place in places], "prefix")
    requests = [
        Request(
            torch.cat([place.prompt.tokens, place.prefix]),
            seed,
            sampling.max_tokens - len(place.prefix),
        )
        for place, seed in zip(places, seeds, strict=True)
    ]
    samples = ask(run, "policy", requests, sampling)
    return [
        continued(
            place.prompt,
            place.prefix,
            sample,
            run,
            number=place.number,
            trainable=False,
            column=column,
        )
        for place, sample in zip(places, samples, strict=True)
    ]


def _count(run: Run, what: str, number: int) -> None:
    name = f"branch/{what}"
    run.metrics[name] = run.metrics.get(name, 0.0) + number
