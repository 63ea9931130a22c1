"""SIGINT and SIGTERM while a run goes on: noted for the end of a step, or heard at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Interrupted(BaseException):
    """A signal asks a run to write its state and end. No `Exception`, so that no part that is
    being run takes it for a failure of its own."""


@dataclass
class Signals:
    """Whether a signal has asked a run to end.

    Attributes:
        asked: one has.
        abrupt: it shall raise `Interrupted` wherever the main thread is.
    """

    asked: bool = False
    abrupt: bool = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen in this block. A second signal takes its usual course."""
        before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for kind, handler in before.items():
                signal.signal(kind, handler)

        def remember(kind: int, frame: object) -> None:
            restore()
            self.asked = True
            if self.abrupt:
                raise Interrupted

        try:
            for kind in before:
                signal.signal(kind, remember)
            yield
        finally:
            restore()

    @contextmanager
    def breaking(self, wanted: bool) -> Iterator[None]:
        """A signal breaks this block off, if that is wanted.

        Raises:
            Interrupted: one came, or had come before.
        """
        self.abrupt = wanted
        try:
            if wanted and self.asked:
                raise Interrupted
            yield
        finally:
            self.abrupt = False
