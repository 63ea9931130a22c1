"""A client for OpenAI-compatible servers: many requests, retried, patient when one is down."""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from threading import Condition, Event, Lock, Thread
from typing import Any

from didact.core.errors import RunError

log = logging.getLogger(__name__)
BUSY = frozenset({408, 429, 500})
DOWN = frozenset({502, 503, 504})
LONGEST = 30.0
"""Seconds between two tries at most; they double."""


class Unreachable(RunError):
    """The server did not answer; maybe it will."""


class Busy(Exception):
    """The server answered that it cannot now; says after how many seconds to ask again."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True)
class Endpoint:
    """Where an OpenAI-compatible server is, and how patient to be with it.

    A request that the server does not answer is asked again, so what a step has already got is not
    lost while a server restarts.

    Attributes:
        url: up to and with the version, e.g. http://127.0.0.1:8000/v1.
        timeout: seconds until an answer that does not come counts as none.
        retries: how often a request is asked again that the server refuses as busy (408, 429) or
            fails on (500).
        wait: seconds to wait for a server that is down (no connection, 502 to 504).
        concurrency: most requests under way at once.
        key: name of the variable of the environment that holds the API key, if there is one.
        pause: seconds until the second try.
    """

    url: str
    timeout: float = 600.0
    retries: int = 5
    wait: float = 600.0
    concurrency: int = 32
    key: str = "OPENAI_API_KEY"
    pause: float = 0.25

    def models(self) -> list[dict[str, Any]]:
        """The models that are served, as the server describes them."""
        return list(self.post("/models", [None])[0].get("data", []))

    def named(self, model: str | None) -> str:
        """This model's name, or that of the only one.

        Raises:
            RunError: none is given and the server has several.
        """
        if model is not None:
            return model
        served = [str(entry["id"]) for entry in self.models()]
        if len(served) != 1:
            raise RunError(
                f"server {self.url}: say which 'model'; it serves {', '.join(served) or 'none'}."
            )
        return served[0]

    def post(self, path: str, bodies: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
        """One answer per body, in order; without a body it is a GET.

        Raises:
            RunError: the server refuses a request, or stays down for longer than `wait`.
        """
        return spread([self], path, bodies)

    def ask(
        self, path: str, body: Mapping[str, Any] | None, stop: Event | None = None
    ) -> dict[str, Any]:
        """The answer to one request; a busy server is asked again.

        Raises:
            Unreachable: there is no server now.
            RunError: it refuses, or stays busy.
        """
        refused, pause, stop = 0, self.pause, stop or Event()
        while True:
            try:
                return self._once(path, body)
            except Busy as busy:
                refused += 1
                if refused > self.retries:
                    raise RunError(
                        f"server {self.url}: gave up after {refused} tries: {busy}"
                    ) from None
                pause = max(pause, busy.after)
            if stop.wait(min(pause, LONGEST)):
                raise RunError(f"server {self.url}: another request failed.")
            pause = min(2 * pause, LONGEST)

    def _once(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                read = json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (urllib.error.URLError, OSError, HTTPException) as error:
            raise Unreachable(
                str(getattr(error, "reason", error)) or type(error).__name__
            ) from None
        except ValueError:
            read = None
        if not isinstance(read, dict):
            raise RunError(f"server {self.url}{path}: the answer is no JSON object.")
        return read

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        text = error.read().decode(errors="replace")[:500].replace("\n", " ")
        said = f"HTTP {error.code}: {text or error.reason}"
        if error.code in DOWN:
            return Unreachable(said)
        if error.code in BUSY:
            after = error.headers.get("Retry-After", "")
            return Busy(said, float(after) if after.isdigit() else 0.0)
        hint = f" Set ${self.key}." if error.code in (401, 403) else ""
        return RunError(f"server {self.url}: {said}.{hint}")


Admit = Callable[[Endpoint], None]
"""Called before the first request to a server, and before the first one after it was down. May
raise `Unreachable`: not now."""


def spread(
    servers: Sequence[Endpoint],
    path: str,
    bodies: Sequence[Mapping[str, Any] | None],
    admit: Admit | None = None,
) -> list[dict[str, Any]]:
    """One answer per body, in order, each by whichever server is free.

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
        self.admitted = False

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
                log.warning(f"server {server.url}: {error}; asking again in {pause:.2g} s")
            self.work.stop.wait(min(pause, LONGEST))
            pause = min(2 * pause, LONGEST)

    def _one(self) -> bool:
        """Ask one request; whether there was one."""
        with self.lock:
            if not self.admitted and not self.work.over():
                self.admit(self.server)
                self.admitted = True
        at = self.work.take()
        if at is None:
            return False
        try:
            answer = self.server.ask(self.work.path, self.work.bodies[at], self.work.stop)
        except Unreachable:
            self.admitted = False
            self.work.give_back(at)
            raise
        self.work.answered(at, answer)
        return True


class _StaysDown(RunError):
    """Others may still answer."""
