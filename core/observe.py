"""Observers see everything a run does and change nothing; each method is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from didact.core.protocols import Run
from didact.core.types import Group


class Observer(Protocol):
    """What an observer may listen to. Implement only the methods you need."""

    def on_start(self, run: Run) -> None:
        """Models are loaded; the first step is next."""

    def on_step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        """A step is done; seconds spent are under `seconds/…`."""

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation is done, of the model after `step` steps."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """The state after `step` steps is safely on disk."""

    def on_end(self, error: BaseException | None) -> None:
        """The run is over; release what you hold."""


def notify(observers: Sequence[Any], event: str, *arguments: object) -> None:
    """Tell every observer that listens to this event; the first error is raised when all know.

    Each gets metrics of its own, which it may change.
    """
    errors: list[Exception] = []
    for observer in observers:
        listener = getattr(observer, event, None)
        own = [dict(given) if isinstance(given, dict) else given for given in arguments]
        try:
            if listener is not None:
                listener(*own)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
