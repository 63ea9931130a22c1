"""Where a step's groups come from: made now, or while the step before was updating."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from didact.core.codec import decode, encode, prompt_from, prompt_state
from didact.core.pipeline import Pipeline
from didact.core.protocols import Run, State
from didact.core.types import Group


@dataclass(frozen=True)
class Gather:
    """Draw a step's problems and send them through the experience."""

    experience: Pipeline

    def __call__(self, run: Run) -> Sequence[Group]:
        problems = run.sampler.draw(run.step)
        prompts = [Group(prompt) for prompt in run.renderer.prompts(problems)]
        groups = self.experience(prompts, run)
        for generator in run.generators.values():
            generator.rest()
        return groups

    def settle(self, run: Run) -> None:
        """Nothing is under way; let the learners leave memory to the generators, who follow."""
        for learner in run.learners.values():
            learner.rest()


@dataclass(frozen=True)
class Made:
    """The groups of a step, all that were scored, and what making them was counted and timed as."""

    step: int
    groups: Sequence[Group]
    scored: Mapping[str, Group]
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass
class GatherAhead:
    """Make the next step's groups in a second thread while this step's phases update.

    The groups of step t are sampled by the weights before the update of step t - 1, so they are
    one update old (`version` says it); a rule that reads `behavior_logprobs` corrects for it, for
    example `times: [truncated_is]`. The next problems are drawn before the sampler has observed
    this step. All else is as without: the same seeds, and the same trajectories for the same run.

    Attributes:
        last: no groups are made for this step or a later one.
    """

    experience: Pipeline
    last: int
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)
    _next: Future[Made] | None = field(default=None, init=False)
    _beside: Any = field(default=None, init=False)

    def __call__(self, run: Run) -> Sequence[Group]:
        if self._beside is None:
            self._beside = run.world.beside()
        made = (self._next or self._begin(run, run.step)).result()
        run.metrics |= made.metrics
        run.scored |= made.scored
        run.seconds |= {f"ahead/{name}": spent for name, spent in made.seconds.items()}
        following = run.step + 1
        self._next = self._begin(run, following) if following < self.last else None
        return made.groups

    def settle(self, run: Run) -> None:
        """Wait for the groups under way: weights may change only after that."""
        if self._next is not None:
            self._next.result()

    def _begin(self, run: Run, step: int) -> Future[Made]:
        view = replace(run, step=step, metrics={}, seconds={}, scored={}, world=self._beside)
        problems = run.sampler.draw(step)
        return self._pool.submit(self._make, problems, view)

    def _make(self, problems: Sequence[Any], view: Run) -> Made:
        prompts = [Group(prompt) for prompt in view.renderer.prompts(problems)]
        groups = self.experience(prompts, view)
        return Made(view.step, groups, view.scored, view.metrics, view.seconds)

    def state_dict(self) -> State:
        """The groups that are made and not yet used: the next step's."""
        if self._next is None:
            return {}
        made = self._next.result()
        return {
            "step": made.step,
            "metrics": dict(made.metrics),
            "seconds": dict(made.seconds),
            "groups": _packed(made.groups),
            "scored": _packed(made.scored.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        scored = {group.prompt.id: group for group in _unpacked(state["scored"])}
        self._next = Future()
        self._next.set_result(
            Made(
                state["step"],
                _unpacked(state["groups"]),
                scored,
                state["metrics"],
                state["seconds"],
            )
        )


def _packed(groups: Iterable[Group]) -> list[State]:
    return [
        {
            "prompt": prompt_state(group.prompt),
            "signals": dict(group.signals),
            "members": encode(group.members),
        }
        for group in groups
    ]


def _unpacked(states: Sequence[State]) -> list[Group]:
    return [
        Group(prompt_from(g["prompt"]), tuple(decode(g["members"])), g["signals"]) for g in states
    ]
