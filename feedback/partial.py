"""Partial rollouts: a response that its step leaves unfinished is continued in the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from didact.core.errors import RecipeError
from didact.core.protocols import Names, Run
from didact.core.ranges import Count
from didact.core.seeds import seed_of
from didact.core.types import Group, Request, Sample, Trajectory
from didact.feedback.policy import ask, sampling_of, seeds_of

HELD = "held"
"""Signal of a waiting member: the number of its group."""


@dataclass(frozen=True)
class Continue:
    """Hold back groups with unfinished responses; in the next step, continue these.

    Long responses so cost a step no more than `segment` tokens each. Groups held back by earlier
    steps come first: their truncated members, up to `max_tokens`, get a further segment from the
    policy as it is now. A group goes on as soon as all its members are finished, so baselines are
    those of whole groups; the others wait in the buffer, which a checkpoint holds. Every token
    keeps the log-probability that it was drawn with; a response's version is that of its oldest
    segment; what was known of its beginning, rewards too, is forgotten. Partial rollouts of Kimi
    k1.5, arXiv:2501.12599 section 2.6.2; no code was released. Only members of origin "policy" are
    continued, sampled as the run says; others, cut or not, stay as they are. For single responses:
    an episode's environment is not asked again. Counted in `run.metrics`: `continue/held` (groups
    that wait) and `continue/tokens`.

    Attributes:
        buffer: name of the recipe's buffer that they wait in, a `queue` of its own.
        segment: most tokens that a response gets in a step.
        max_tokens: longest response; None: the run's.
        learn: from "all" tokens, or, of responses that were continued, only from the "newest"
            segment. It alone is on-policy, unless the response then waited for its group.
    """

    buffer: str
    segment: Count
    max_tokens: Count | None = None
    learn: Literal["all", "newest"] = "all"
    holds: ClassVar[str] = "groups that 'continue' held back"

    @property
    def needs(self) -> Names:
        return frozenset({"members", "behavior_logprobs"})

    @property
    def adds(self) -> Names:
        return frozenset()

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        buffer = run.buffers[self.buffer]
        most = self.max_tokens or run.sampling.max_tokens
        older = self._continued(_groups(buffer.sample(len(buffer))), most, run)
        everyone = [*older, *groups]
        waiting = [group for group in everyone if _open(group, most)]
        for place, group in enumerate(waiting):
            number = float(seed_of(run.seed, run.step, group.prompt.id, HELD, place) % 2**52)
            buffer.add(member.with_signals(**{HELD: number}) for member in group.members)
        rows = sum(len(group.members) for group in waiting)
        if len(buffer) != rows:
            raise RecipeError(
                f"continue: {rows} responses wait, and its buffer '{self.buffer}' holds "
                f"{len(buffer)}; make it a `queue` without a capacity."
            )
        run.metrics["continue/held"] = float(len(waiting))
        return [group for group in everyone if not _open(group, most)]

    def _continued(self, held: Sequence[Group], most: int, run: Run) -> list[Group]:
        """The groups with a further segment on each of their unfinished members."""
        going = [m for group in held for m in group.members if _unfinished(m, most)]
        requests = [
            Request(
                torch.cat([member.prompt.tokens, member.tokens]), seed, most - len(member.tokens)
            )
            for member, seed in zip(
                going, seeds_of(run, [member.prompt for member in going], "continue"), strict=True
            )
        ]
        samples = ask(run, "policy", requests, sampling_of(run, max_tokens=self.segment))
        run.metrics["continue/tokens"] = float(sum(len(sample.tokens) for sample in samples))
        longer = {
            id(member): self._longer(member, sample, run)
            for member, sample in zip(going, samples, strict=True)
        }
        return [group.each(lambda m: longer.get(id(m), m)) for group in held]

    def _longer(self, member: Trajectory, sample: Sample, run: Run) -> Trajectory:
        tokens = torch.cat([member.tokens, sample.tokens])
        before = member.trainable if self.learn == "all" else torch.zeros_like(member.trainable)
        drawn = torch.cat([member.columns["behavior_logprobs"], sample.logprobs])
        return replace(
            member,
            tokens=tokens,
            trainable=torch.cat([before, torch.ones_like(sample.tokens, dtype=torch.bool)]),
            text=run.renderer.text(tokens),
            truncated=sample.truncated,
            version=sample.version if member.version is None else member.version,
            signals={},
            columns={"behavior_logprobs": drawn},
            feedback=(),
        )


def _unfinished(member: Trajectory, most: int) -> bool:
    return member.origin == "policy" and member.truncated and len(member.tokens) < most


def _open(group: Group, most: int) -> bool:
    return any(_unfinished(member, most) for member in group.members)


def _groups(held: Sequence[Trajectory]) -> list[Group]:
    """The groups that were put away, in their order."""
    found: dict[float, list[Trajectory]] = {}
    for member in held:
        if HELD not in member.signals:
            raise RecipeError(
                f"continue: its buffer holds a {member.origin} of prompt '{member.prompt.id}' that "
                f"it did not put there; give it a buffer of its own."
            )
        plain = {name: value for name, value in member.signals.items() if name != HELD}
        found.setdefault(member.signals[HELD], []).append(replace(member, signals=plain))
    return [Group(members[0].prompt, tuple(members)) for members in found.values()]
