"""A client for OpenAI-compatible servers: many requests, retried, patient when it is down."""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from threading import Event
from typing import Any

from didact.core.errors import RunError

log = logging.getLogger(__name__)
BUSY = frozenset({408, 429, 500})
DOWN = frozenset({502, 503, 504})
LONGEST = 30.0
"""Seconds between two tries at most; they double."""


class Unreachable(Exception):
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

    def models(self) -> list[str]:
        """The models that are served."""
        answer = self._patiently("/models", None, Event())
        return [str(entry["id"]) for entry in answer.get("data", [])]

    def named(self, model: str | None) -> str:
        """This model's name, or that of the only one.

        Raises:
            RunError: none is given and the server has several.
        """
        if model is not None:
            return model
        served = self.models()
        if len(served) != 1:
            raise RunError(
                f"server {self.url}: say which 'model'; it serves {', '.join(served) or 'none'}."
            )
        return served[0]

    def post(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One answer per body, in order.

        Raises:
            RunError: the server refuses a request, or stays down for longer than `wait`.
        """
        if not bodies:
            return []
        with ThreadPoolExecutor(min(self.concurrency, len(bodies))) as pool:
            stop = Event()
            waiting = [pool.submit(self._patiently, path, body, stop) for body in bodies]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _patiently(self, path: str, body: Mapping[str, Any] | None, stop: Event) -> dict[str, Any]:
        """Ask until there is an answer, or patience ends."""
        refused, began, pause = 0, None, self.pause
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
            except Unreachable as error:
                began = began or time.monotonic()
                if time.monotonic() - began + pause > self.wait:
                    raise RunError(
                        f"server {self.url}: no answer for {self.wait:g} s ({error}). Start it "
                        f"again and continue with --resume, or wait longer with 'wait'."
                    ) from None
                log.warning("server %s: %s; asking again in %.2g s", self.url, error, pause)
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
                read = json.load(answer)
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
