"""Many requests to one or more servers of the same model, patient when one is down."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Condition, Event, Lock, Thread
from typing import Any

from didact.core.backends.endpoint import LONGEST, Endpoint, Unreachable
from didact.core.errors import RunError

log = logging.getLogger(__name__)


def models(server: Endpoint) -> list[dict[str, Any]]:
    """The models that are served, as the server describes them."""
    return list(spread([server], "/models", [None])[0].get("data", []))


def named(server: Endpoint, model: str | None) -> str:
    """This model's name, or that of the only one.

    Raises:
        RunError: none is given and the server has several.
    """
    if model is not None:
        return model
    served = [str(entry["id"]) for entry in models(server)]
    if len(served) != 1:
        raise RunError(
            f"server {server.url}: say which 'model'; it serves {', '.join(served) or 'none'}."
        )
    return served[0]


Admit = Callable[[Endpoint], None]
"""Called before the first request to a server, and before the first one after it was down. May
raise `Unreachable`: not now."""


def spread(
    servers: Sequence[Endpoint],
    path: str,
    bodies: Sequence[Mapping[str, Any] | None],
    admit: Admit | None = None,
) -> list[dict[str, Any]]:
    """One answer per body, in order, each by whichever server is free; without a body it is a GET.

    What a server that goes down has not answered is asked of the others, or of itself when it is
    back.

    Raises:
        RunError: a server refuses a request, or all stay down for longer than their `wait`.
    """
    if not bodies:
        return []
    work = _Work(path, bodies)
    lanes = [_Lane(server, admit or (lambda server: None), work) for server in servers]
    serving = [lane for lane in lanes for _ in range(min(lane.server.concurrency, len(bodies)))]
    work.threads = len(serving)
    for lane in serving:
        Thread(target=lane.serve, daemon=True).start()
    try:
        return work.finished()
    finally:
        for lane in lanes:
            lane.close()


class _Work:
    """Requests that wait for an answer, and the answers; shared by the threads of all servers."""

    def __init__(self, path: str, bodies: Sequence[Mapping[str, Any] | None]) -> None:
        self.path, self.bodies = path, bodies
        self.todo = deque(range(len(bodies)))
        self.returned: set[int] = set()
        self.answers: dict[int, dict[str, Any]] = {}
        self.error: BaseException | None = None
        self.changed = Condition()
        self.stop = Event()
        self.threads = 0

    def over(self) -> bool:
        """Nothing is left to ask."""
        return self.stop.is_set() or len(self.answers) == len(self.bodies)

    def take(self) -> int | None:
        """The next request; waits while the others are under way, for one may come back."""
        with self.changed:
            self.changed.wait_for(lambda: self.todo or self.over())
            return None if self.over() else self.todo.popleft()

    def give_back(self, at: int) -> None:
        with self.changed:
            self.todo.appendleft(at)
            self.returned.add(at)
            self.changed.notify_all()

    def answered(self, at: int, answer: dict[str, Any]) -> None:
        with self.changed:
            self.answers[at] = answer
            self.changed.notify_all()

    def leave(self, error: BaseException | None, fatal: bool) -> None:
        """A thread ends: because all is done, its server stays down, or (fatal) refuses."""
        with self.changed:
            self.threads -= 1
            if error is not None and not self.stop.is_set():
                self.error = error
            if fatal:
                self.stop.set()
            self.changed.notify_all()

    def finished(self) -> list[dict[str, Any]]:
        with self.changed:
            try:
                self.changed.wait_for(lambda: self.over() or not self.threads)
            finally:
                self.stop.set()
                self.changed.notify_all()
        if self.error is not None and len(self.answers) < len(self.bodies):
            raise self.error
        return [self.answers[at] for at in range(len(self.bodies))]


class _Lane:
    """The way to one server; its threads share whether it may be asked."""

    def __init__(self, server: Endpoint, admit: Admit, work: _Work) -> None:
        self.server, self.admit, self.work = server, admit, work
        self.lock = Lock()
        self.admitted, self.told = False, ""

    def close(self) -> None:
        """Wait for an admission that is under way; when all is over, no other begins."""
        with self.lock:
            pass

    def serve(self) -> None:
        """Ask until nothing is left, or this server's `wait` is over."""
        try:
            self._serve()
        except BaseException as error:
            self.work.leave(error, fatal=not isinstance(error, _StaysDown))
        else:
            self.work.leave(None, fatal=False)

    def _serve(self) -> None:
        server, began, pause = self.server, None, self.server.pause
        while not self.work.over():
            try:
                if not self._one():
                    return
                began, pause = None, server.pause
                continue
            except Unreachable as error:
                began = began or time.monotonic()
                if time.monotonic() - began + pause > server.wait:
                    raise _StaysDown(
                        f"server {server.url}: no answer for {server.wait:g} s ({error}). Start "
                        f"it again and continue with --resume, or wait longer with 'wait'."
                    ) from None
                self._tell(str(error))
            self.work.stop.wait(min(pause, LONGEST))
            pause = min(2 * pause, LONGEST)

    def _tell(self, what: str) -> None:
        """Once, not from every thread and try."""
        if what != self.told:
            self.told = what
            log.warning(
                f"server {self.server.url}: {what}; asking again for {self.server.wait:g} s"
            )

    def _one(self) -> bool:
        """Ask one request; whether there was one."""
        self._admitted()
        at = self.work.take()
        if at is None:
            return False
        try:
            if at in self.work.returned:  # this server may have been idle, and restarted, since
                self.admitted = False
                self._admitted()
            answer = self.server.ask(self.work.path, self.work.bodies[at], self.work.stop)
        except Unreachable:
            self.admitted = False
            self.work.give_back(at)
            raise
        self.work.answered(at, answer)
        self.told = ""
        return True

    def _admitted(self) -> None:
        with self.lock:
            if not self.admitted and not self.work.over():
                self.admit(self.server)
                self.admitted = True


class _StaysDown(RunError):
    """Others may still answer."""
