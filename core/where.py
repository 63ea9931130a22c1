"""A closed little language for choosing trajectories and groups: no code in recipes.

`{origin: policy, success_rate: {at_most: 0.5}, prompt.level: [3, 4]}`: every entry must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from operator import eq
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, RootModel, Tag

from didact.core.errors import RecipeError
from didact.core.types import Group, Trajectory

ALWAYS = frozenset({"origin", "truncated", "length", "version"})


class Range(BaseModel):
    """An interval; each end may be open (absent), closed (`at_…`) or strict."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    at_least: float = float("-inf")
    at_most: float = float("inf")
    above: float = float("-inf")
    below: float = float("inf")

    def __contains__(self, value: float) -> bool:
        inside = self.at_least <= value <= self.at_most
        return (
            inside
            and (self.above == float("-inf") or value > self.above)
            and (self.below == float("inf") or value < self.below)
        )


Wanted = Annotated[
    Annotated[bool | float | str | list[float | str], Tag("value")]
    | Annotated[Range, Tag("range")],
    Discriminator(lambda given: "range" if isinstance(given, dict | Range) else "value"),
]
"""A value, some values, or a range. The tags only keep pydantic's messages to one line."""


class Where(RootModel[dict[str, Wanted]]):
    """Maps a name to the value, values or range it must have; all must hold.

    Names are signals of the item, `origin`, `truncated`, `length` (tokens), `version`, or
    `prompt.KEY` for the problem's metadata. A name that an item lacks is an error, not a mismatch.
    """

    model_config = ConfigDict(frozen=True)
    root: dict[str, Wanted] = {}

    @property
    def needs(self) -> frozenset[str]:
        """The signals it reads: what some stage must have made."""
        return frozenset(n for n in self.root if n not in ALWAYS and not n.startswith("prompt."))

    def __call__(self, item: Trajectory | Group) -> bool:
        """Intrinsic names are tried first, so `{origin: policy, reward: 1}` passes over a
        demonstration that has no reward."""
        for name, matches in self._tests:
            value = _read(item, name)
            try:
                if not matches(value):
                    return False
            except TypeError:
                raise RecipeError(
                    f"where: a range is asked of '{name}', which is {value!r} (prompt "
                    f"'{item.prompt.id}') and no number; narrow the choice, or name values."
                ) from None
        return True

    @cached_property
    def _tests(self) -> Sequence[tuple[str, Callable[[Any], bool]]]:
        ordered = sorted(self.root.items(), key=lambda entry: entry[0] not in ALWAYS)
        return [(name, _test(want)) for name, want in ordered]


EVERYTHING = Where()


def _read(item: Trajectory | Group, name: str) -> Any:
    if name.startswith("prompt."):
        key, metadata = name.removeprefix("prompt."), item.prompt.problem.metadata
        if key not in metadata:
            raise RecipeError(
                f"where: problem '{item.prompt.id}' has no metadata '{key}' (it has: "
                f"{', '.join(sorted(metadata)) or 'none'})."
            )
        return metadata[key]
    if name in item.signals:
        return item.signals[name]
    if isinstance(item, Trajectory) and name in ALWAYS:
        return item.tokens.numel() if name == "length" else getattr(item, name)
    kind = f"trajectory of origin '{item.origin}'" if isinstance(item, Trajectory) else "group"
    raise RecipeError(
        f"where: a {kind} has no '{name}' (it has: {', '.join(sorted(item.signals)) or 'none'}); "
        f"put the stage that makes it earlier, or narrow the choice."
    )


def _test(want: Wanted) -> Callable[[Any], bool]:
    return want.__contains__ if isinstance(want, Range | list) else partial(eq, want)
