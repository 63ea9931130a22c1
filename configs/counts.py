"""How many trajectories a step makes and learns from at most, as far as a recipe tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from didact.configs.assemble import Parts
from didact.configs.schema import Recipe
from didact.core.phase import Phase
from didact.core.protocols import Stage
from didact.core.rounds import Repeat
from didact.core.schedule import now
from didact.core.stages import Fill, Rollout


@dataclass
class Most:
    """Upper bounds.

    Attributes:
        groups: that leave the stages.
        members: of a group.
        unknown: what is not counted, in words.
    """

    groups: int | None
    members: int = 0
    unknown: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int | None:
        """Trajectories of a step; None if the number of prompts is not known."""
        return None if self.groups is None else self.groups * self.members


def rows_of(recipe: Recipe, parts: Parts) -> int | None:
    """Trajectories that a step of a recipe makes, or that an optimizer step learns from, at most;
    None if it draws no fixed number of prompts."""
    made = of_recipe(recipe, parts).rows
    if made is None:
        return None
    sizes = [min(fired(phase, made), phase.batch_size or inf) for phase in parts.phases]
    return int(max([made, *sizes]))


def fired(phase: Phase, made: int) -> int:
    """Rows that a phase takes from its pool at most, if a step makes so many: those that waited for
    it to fire, and this step's."""
    if phase.draw is not None:
        return phase.draw
    when = phase.when
    most = max((when.first + 1) * made, when.at_least - 1 + when.every * made)
    capacity = getattr(phase.pool, "capacity", None)
    return most if capacity is None else min(most, int(capacity))


def of_recipe(recipe: Recipe, parts: Parts) -> Most:
    """Upper bounds of a step of a recipe."""
    prompts = getattr(recipe.sampler.params, "prompts", None)
    return most([stage for _, stage in parts.experience.stages], prompts)


def most(stages: Sequence[Stage], prompts: int | None) -> Most:
    """Of these stages for so many prompts."""
    found = Most(prompts)
    for stage in stages:
        if isinstance(stage, Rollout):
            source = now(stage.source, 0)
            each = int(getattr(source, "players", 1))  # as many trajectories, where several play
            found.members += each * int(getattr(source, "n", 1))
            if stage.times is not None:
                found.unknown.append(f"a rollout asks '{stage.times}' times: counted as once")
        elif isinstance(stage, Repeat):
            inner = most(stage.stages, prompts)
            found.members += stage.rounds * inner.members
            found.unknown += inner.unknown
        elif held := getattr(stage, "holds", ""):
            found.unknown.append(f"{held} in earlier steps")
        elif isinstance(stage, Fill):
            inner = most(stage.stages, prompts)
            found.groups = stage.groups
            found.members += inner.members
            found.unknown += inner.unknown
            found.unknown.append(f"fill draws up to {stage.rounds} times as many prompts")
    return found
