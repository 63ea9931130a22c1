"""DAPO with overlong filtering as a stage, and a sampler that lets useless problems rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from didact import Group, Names, Problem, RecipeError, Register, Run, State, TaskSource, hookimpl

DIDACT_API = ">=1,<2"


@dataclass
class Resting:
    """The problems in order; one that was drawn and whose group did not survive the step rests.

    Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) drops the groups that are all right or
    all wrong, and pays for their responses. This sampler passes over such problems for some steps.
    Surplus groups that `fill` drops rest as well.

    Args:
        task: the problems; provided by the framework.
        prompts: problems per draw.
        rest: steps that a problem is passed over.
        seed: of the place to begin; provided by the framework.
    """

    task: TaskSource = field(repr=False)
    prompts: int = 16
    rest: int = 5
    seed: int = 0
    _position: int = field(default=0, init=False)
    _until: dict[int, int] = field(default_factory=dict, init=False)
    _drawn: dict[str, int] = field(default_factory=dict, init=False)
    _step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.prompts <= len(self.task):
            raise RecipeError(f"resting: {self.prompts} prompts of {len(self.task)} problems.")
        self._position = self.seed * self.prompts

    def draw(self, step: int) -> Sequence[Problem]:
        """Problems that do not rest; if too few are awake, the next ones all the same."""
        self._step = step
        places = [(self._position + k) % len(self.task) for k in range(len(self.task))]
        awake = [at for at in places if self._until.get(at, -1) < step]
        asleep = [at for at in places if self._until.get(at, -1) >= step]
        chosen = [*awake, *asleep][: self.prompts]
        self._position = (chosen[-1] + 1) % len(self.task)
        problems = [self.task[at] for at in chosen]
        self._drawn |= {problem.id: at for problem, at in zip(problems, chosen, strict=True)}
        return problems

    def observe(self, groups: Sequence[Group]) -> None:
        """Whoever was drawn in this step and is not among the survivors rests."""
        survivors = {group.prompt.id for group in groups if group.members}
        resting = {at for id, at in self._drawn.items() if id not in survivors}
        self._until = {at: end for at, end in self._until.items() if end > self._step}
        self._until |= dict.fromkeys(resting, self._step + self.rest)
        self._drawn = {}

    def state_dict(self) -> State:
        """Where it is, and who rests until when."""
        return {"position": self._position, "until": self._until, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._position = state["position"]
        self._until, self._drawn = dict(state["until"]), dict(state["drawn"])


@dataclass(frozen=True)
class SilenceTruncated:
    """Takes the loss off what the length limit cut off; it still counts in its group's baseline.

    Overlong filtering of DAPO, arXiv:2503.14476, section 3.4.
    """

    @property
    def needs(self) -> Names:
        """Trajectories."""
        return frozenset({"members"})

    @property
    def adds(self) -> Names:
        """Nothing."""
        return frozenset()

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        """The same groups, their truncated members untrainable."""
        cut = sum(member.truncated for group in groups for member in group.members)
        run.metrics["silence_truncated/members"] = float(cut)
        return [
            replace(
                group,
                members=tuple(
                    replace(m, trainable=torch.zeros_like(m.trainable)) if m.truncated else m
                    for m in group.members
                ),
            )
            for group in groups
        ]


@hookimpl
def register_samplers(register: Register) -> None:
    """Add the sampler."""
    register("resting", Resting)


@hookimpl
def register_stages(register: Register) -> None:
    """Add the stage."""
    register("silence_truncated", SilenceTruncated)
