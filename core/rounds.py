"""The stage that goes round: groups pass the same stages again until they have what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from didact.core.errors import RecipeError
from didact.core.pipeline import Pipeline, unmet
from didact.core.protocols import Names, Run, Stage
from didact.core.ranges import Count
from didact.core.types import Group
from didact.core.where import Where


@dataclass(frozen=True)
class Repeat:
    """Send groups through the same stages again until they match; `fill` draws new prompts instead.

    All go through the first round; those that match `until` leave, the others go on. With
    `rollout` and `score` inside and `until: {positives: {at_least: 2}, negatives: {at_least: 2}}`
    these are the sampling rounds of Reinforce-Ada, arXiv:2510.04996. Counted in `run.metrics`:
    `repeat/rounds`, and `repeat/unmet`, the groups that do not match after the last round.

    Attributes:
        stages: what a group goes through in each round; what they drop is gone.
        until: when a group leaves.
        rounds: most rounds.
    """

    stages: Sequence[Stage]
    until: Where
    rounds: Count = 4

    @property
    def needs(self) -> Names:
        return unmet(self.stages) | (self.until.needs - self.adds)

    @property
    def adds(self) -> Names:
        return frozenset().union(*(stage.adds for stage in self.stages))

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        labelled = [(f"repeat/{type(s).__name__.lower()}", s) for s in self.stages]
        inner = Pipeline(labelled, given=self.needs)
        done: list[Group | None] = list(groups)
        going, rounds = list(range(len(groups))), 0
        while going and rounds < self.rounds:
            fresh = list(inner([group for at in going if (group := done[at]) is not None], run))
            for at in going:
                here = bool(fresh) and fresh[0].prompt is groups[at].prompt
                done[at] = fresh.pop(0) if here else None
            if fresh:
                raise RecipeError(
                    f"repeat: its stages made a group of prompt '{fresh[0].prompt.id}' that they "
                    f"were not given, or changed the order."
                )
            going = [at for at in going if (now := done[at]) is not None and not self.until(now)]
            rounds += 1
        run.metrics["repeat/rounds"] = float(rounds)
        run.metrics["repeat/unmet"] = float(len(going))
        return [group for group in done if group is not None]
