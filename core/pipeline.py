"""The experience pipeline: a list of stages, checked before it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from didact.core.errors import PluginError, RecipeError
from didact.core.protocols import Names, Run, Stage
from didact.core.types import Group

T = TypeVar("T")


def unmet(stages: Sequence[Stage]) -> Names:
    """What stages in this order read that none of them adds before."""
    have: set[str] = set()
    lacking: set[str] = set()
    for stage in stages:
        lacking |= stage.needs - have
        have |= stage.adds
    return frozenset(lacking)


def missing_inputs(stages: Sequence[tuple[str, Stage]]) -> Iterator[tuple[int, str]]:
    """Position and message for every stage that reads what no earlier stage adds."""
    have: set[str] = set()
    for position, (label, stage) in enumerate(stages):
        missing = stage.needs - have
        if missing:
            yield (
                position,
                f"'{label}' needs {listed(missing)}, but no earlier stage adds it "
                f"(so far: {listed(have) or 'nothing'}).{makers(missing)}",
            )
        have |= stage.adds


class Pipeline:
    """Applies stages in order; refuses at construction if a stage's input is never made.

    Args:
        stages: pairs of a label, for messages and timings, and the stage.
        given: what the groups already have.
    """

    def __init__(self, stages: Sequence[tuple[str, Stage]], given: Names = frozenset()) -> None:
        lacking = unmet([stage for _, stage in stages]) - given
        if lacking:
            raise RecipeError(f"no stage adds {listed(lacking)} before it is read.")
        self.stages = stages
        self.adds: Names = frozenset().union(*(stage.adds for _, stage in stages))

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        for label, stage in self.stages:
            began = time.perf_counter()
            groups = each_a(Group, stage(groups, run), f"stage '{label}'")
            spent = time.perf_counter() - began
            run.seconds[label] = run.seconds.get(label, 0.0) + spent
        return groups


def each_a(
    kind: type[T] | tuple[type[T], ...], made: object, who: str, count: int | None = None
) -> list[T]:
    """What a part returned for many, each of a kind, and as many as it was asked for.

    As a list, because a generator is empty when it is looked at for the second time.

    Raises:
        PluginError: it is not.
    """
    given: list[T] = list(made) if isinstance(made, Iterable) else [made]  # type: ignore[list-item]
    for item in given:
        if not isinstance(item, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(known.__name__ for known in kinds)
            raise PluginError(f"{who} returned {type(item).__name__}, not a sequence of {wanted}.")
    if count is not None and len(given) != count:
        raise PluginError(f"{who} returned {len(given)} for {count} that it was given.")
    return given


MAKERS = {
    "members": "rollout",
    "reward": "score",
    "success_rate": "score",
    "success": "score",
    "advantages": "advantage",
    "feedback": "critique",
    "behavior_logprobs": "rollout: policy",
    "returns": "advantage: gae",
    "values": "read: {columns: [values]}",
    "step_end": "steps",
    "step_value": "step_values",
    "pair": "pair",
    "preferred": "pair",
}


def makers(names: Names | set[str]) -> str:
    """Which stage could make each missing name, as a sentence, or nothing."""
    known = [
        f"'{name}' comes from stage '{MAKERS[name]}'" for name in sorted(names) if name in MAKERS
    ]
    return f" {'; '.join(known)}." if known else ""


def listed(names: Names | set[str]) -> str:
    """Names in quotes, sorted, with commas."""
    return ", ".join(f"'{name}'" for name in sorted(names))
