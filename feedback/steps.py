"""Stages that find the steps of an answer and say what each is worth by answering on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch

from didact.core.errors import RewardError
from didact.core.protocols import Failed, Names, RewardProvider, Run
from didact.core.ranges import Count, NonNegative
from didact.core.types import Group, Request, Trajectory
from didact.core.where import EVERYTHING, Where
from didact.feedback.demonstrations import continued
from didact.feedback.policy import ask, sampling_of, seeds_of
from didact.feedback.prefixes import step_ends


@dataclass(frozen=True)
class Steps:
    """Write the column `step_end`: 1.0 on the last token of every step, 0.0 elsewhere.

    A step ends with a token that contains the separator; the last token ends the last one.

    Attributes:
        separator: text between steps.
        where: the members it is for.
    """

    separator: str = "\n"
    where: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        return self.where.needs | {"members"}

    @property
    def adds(self) -> Names:
        return frozenset({"step_end"})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        def marked(member: Trajectory) -> Trajectory:
            if not self.where(member):
                return member
            column = torch.zeros(len(member.tokens))
            ends = step_ends(member.tokens, self.separator, run) if len(column) else []
            column[[end - 1 for end in ends]] = 1.0
            return member.with_columns(step_end=column)

        return [group.each(marked) for group in groups]


@dataclass(frozen=True)
class StepValues:
    """Write the value of each step: the mean reward of answers continued from its end.

    The Monte-Carlo Q of per-step methods (arXiv:2406.14532, arXiv:2410.08146): column `step_value`
    on the tokens that `step_end` marks, 0 elsewhere; after the last step it is the reward of the
    answer itself. Signal `start_value`: the same from the beginning of the answer. A continuation
    whose reward could not be computed is left out of the mean; it is an error if none is left.
    Costs (steps) x n continuations for each answer. Counted in `run.metrics`: `steps/continued`,
    `steps/failed`.

    Attributes:
        reward: of a whole answer.
        n: continuations from each step's end.
        model: who continues: the policy, or a prover.
        column, start: what the results are called.
        most: longest run of steps that is valued; later ones get the value of the answer.
        where: the members it is for.
    """

    reward: RewardProvider
    n: Count = 4
    model: str = "policy"
    column: str = "step_value"
    start: str = "start_value"
    most: NonNegative = inf
    where: Where = EVERYTHING

    @property
    def needs(self) -> Names:
        return self.where.needs | {"step_end"}

    @property
    def adds(self) -> Names:
        return frozenset({self.column, self.start})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        chosen = [m for group in groups for m in group.members if self.where(m)]
        places = [(m, end) for m in chosen for end in self._starts(m)]
        values = iter(self._means(places, run))
        own = self._scored(chosen, run)
        done = {
            id(member): self._valued(member, [next(values) for _ in self._starts(member)], reward)
            for member, reward in zip(chosen, own, strict=True)
        }
        return [group.each(lambda m: done.get(id(m), m)) for group in groups]

    def _starts(self, member: Trajectory) -> list[int]:
        """Lengths of the beginnings that are continued: none, and all steps but the last."""
        ends = (member.columns["step_end"].nonzero()[:, 0] + 1).tolist()[:-1]
        return [0, *(end for at, end in enumerate(ends) if at < self.most)]

    def _means(self, places: Sequence[tuple[Trajectory, int]], run: Run) -> list[float]:
        sampling = sampling_of(run)
        prompts = [member.prompt for member, _ in places for _ in range(self.n)]
        role = self.model if self.model != "policy" else "steps"
        seeds = iter(seeds_of(run, prompts, role))
        starts = [member.tokens[:end] for member, end in places for _ in range(self.n)]
        requests = [
            Request(
                torch.cat([prompt.tokens, start]),
                next(seeds),
                max(sampling.max_tokens - len(start), 1),
            )
            for prompt, start in zip(prompts, starts, strict=True)
        ]
        samples = ask(run, self.model, requests, sampling)
        made = [
            continued(
                prompt,
                start,
                sample,
                run,
                number=0,
                trainable=False,
            )
            for prompt, start, sample in zip(prompts, starts, samples, strict=True)
        ]
        run.metrics["steps/continued"] = run.metrics.get("steps/continued", 0.0) + len(made)
        values = run.world.map(lambda part: self.reward(part) if part else [], made)
        failed = sum(isinstance(value, Failed) for value in values)
        run.metrics["steps/failed"] = run.metrics.get("steps/failed", 0.0) + failed
        return [_mean(values[at : at + self.n]) for at in range(0, len(values), self.n)]

    def _scored(self, members: Sequence[Trajectory], run: Run) -> list[float]:
        values = run.world.map(lambda part: self.reward(part) if part else [], members)
        return [_mean([value]) for value in values]

    def _valued(self, member: Trajectory, values: Sequence[float], own: float) -> Trajectory:
        places = member.columns["step_end"].nonzero()[:, 0]
        column = torch.zeros(len(member.tokens))
        column[places] = own
        column[places[: len(values) - 1]] = torch.tensor(values[1:])
        return member.with_columns(**{self.column: column}).with_signals(**{self.start: values[0]})


def _mean(values: Sequence[float | Failed]) -> float:
    good = [value for value in values if not isinstance(value, Failed)]
    if not good:
        reasons = [value.reason for value in values if isinstance(value, Failed)]
        raise RewardError(f"step_values: no continuation could be scored: {reasons[0]}")
    return sum(good) / len(good)
