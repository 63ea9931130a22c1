"""The stage that goes round: groups pass the same stages again until they have what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from didact.core.errors import RecipeError
from didact.core.pipeline import Pipeline, unmet
from didact.core.protocols import Names, Run, Stage
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
        stages: what a group goes through in each round; none of them may drop groups.
        until: when a group leaves.
        rounds: most rounds.
    """

    stages: Sequence[Stage]
    until: Where
    rounds: int = 4

    @property
    def needs(self) -> Names:
        return unmet(self.stages) | (self.until.needs - self.adds)

    @property
    def adds(self) -> Names:
        return frozenset().union(*(stage.adds for stage in self.stages))

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        labelled = [(f"repeat/{type(s).__name__.lower()}", s) for s in self.stages]
        inner = Pipeline(labelled, given=self.needs)
        done, going, rounds = list(groups), list(range(len(groups))), 0
        while going and rounds < self.rounds:
            fresh = inner([done[at] for at in going], run)
            if len(fresh) != len(going):
                raise RecipeError(
                    f"repeat: its stages made {len(fresh)} groups of {len(going)}; put stages that "
                    f"drop groups after it."
                )
            for at, group in zip(going, fresh, strict=True):
                done[at] = group
            going = [at for at in going if not self.until(done[at])]
            rounds += 1
        run.metrics["repeat/rounds"] = float(rounds)
        run.metrics["repeat/unmet"] = float(len(going))
        return done
