"""Scalars that an objective learns beside the model, such as the log-variances of its losses."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from pydantic import BaseModel, ConfigDict, model_validator

from didact.core.protocols import UpdateRule


class Learned(BaseModel):
    """A scalar that is trained with the model, by the same steps: `{learned: noise, start: 1.0}`.

    Attributes:
        learned: its name; a rule that gives the same name twice means the same scalar.
        start: its first value.
        at_least, at_most: where it is kept after each step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    learned: str
    start: float = 0.0
    at_least: float = -inf
    at_most: float = inf

    @model_validator(mode="after")
    def _inside(self) -> Learned:
        if not self.at_least <= self.start <= self.at_most:
            raise ValueError(
                f"'start' is {self.start:g}, not from {self.at_least:g} to {self.at_most:g}"
            )
        return self


def learned_of(rule: UpdateRule) -> Mapping[str, Learned]:
    """The scalars that a rule declares, by name; most have none."""
    declared: Mapping[str, Learned] = getattr(rule, "learned", {})
    return declared
