"""Scalars that may change with the step: `0.1`, or `{cosine: [0.9, 0.05], over: 200}`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

T = TypeVar("T")


class Schedule(BaseModel):
    """A float of the step, counted from 0. Exactly one shape; before `start` and after the end
    it keeps its first and last value.

    Attributes:
        linear: [first, last], a straight line over `over` steps.
        cosine: [first, last], half a cosine over `over` steps.
        steps: `{0: a, 100: b}`: the value of the latest step reached.
        over: length in steps, after `start`.
        start: first step of the change.
        warmup: steps of a linear rise from 0 before the shape begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    linear: tuple[float, float] | None = None
    cosine: tuple[float, float] | None = None
    steps: dict[int, float] | None = None
    constant: float | None = None
    over: int = Field(default=0, ge=0)
    start: int = Field(default=0, ge=0)
    warmup: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_shape(self) -> Schedule:
        shapes = [
            s for s in ("linear", "cosine", "steps", "constant") if getattr(self, s) is not None
        ]
        if len(shapes) != 1:
            raise ValueError(
                "a schedule has exactly one of 'linear', 'cosine', 'steps', 'constant'"
            )
        if shapes[0] in ("linear", "cosine") and self.over < 1:
            raise ValueError(f"'{shapes[0]}' needs 'over', its length in steps")
        if self.steps is not None and 0 not in self.steps:
            raise ValueError("'steps' must name a value for step 0")
        return self

    def __ge__(self, bound: float) -> bool:
        """Compared with a number, all of its values are: so ranges of settings hold for it."""
        return min(self._extremes()) >= bound

    def __gt__(self, bound: float) -> bool:
        return min(self._extremes()) > bound

    def __le__(self, bound: float) -> bool:
        return max(self._extremes()) <= bound

    def __lt__(self, bound: float) -> bool:
        return max(self._extremes()) < bound

    def _extremes(self) -> list[float]:
        """Values among which are the lowest and the highest that it takes."""
        shape = self.linear or self.cosine or (self.steps or {}).values() or [self.constant]
        values = [value for value in shape if value is not None]
        return [*values, *([self(0)] if self.warmup else [])]

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self._shape(0) * (step + 1) / self.warmup
        return self._shape(step - self.warmup)

    def _shape(self, step: int) -> float:
        if self.constant is not None:
            return self.constant
        if self.steps is not None:
            return self.steps[max(at for at in self.steps if at <= step)]
        done = min(max((step - self.start) / self.over, 0.0), 1.0)
        if self.cosine is not None:
            first, last = self.cosine
            return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
        assert self.linear is not None
        first, last = self.linear
        return first + (last - first) * done


Scalar = Annotated[
    Annotated[float, Tag("number")] | Annotated[Schedule, Tag("schedule")],
    Discriminator(lambda value: "schedule" if isinstance(value, dict | Schedule) else "number"),
]
"""A float, or a schedule for one. The tags only keep pydantic's messages to one line."""


def value_at(scalar: Scalar, step: int) -> float:
    """The scalar's value at a step."""
    return scalar(step) if isinstance(scalar, Schedule) else scalar


@dataclass(frozen=True)
class Varying:
    """A component some of whose parameters are schedules; made anew for the step it is used in."""

    make: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)

    def at(self, step: int) -> Any:
        return self.make(
            **{k: v(step) if isinstance(v, Schedule) else v for k, v in self.params.items()}
        )


def now(component: T, step: int) -> T:
    """The component as it is at this step; itself unless a parameter follows a schedule."""
    made: T = component.at(step) if isinstance(component, Varying) else component
    return made
