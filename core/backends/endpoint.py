"""An OpenAI-compatible server: where it is, how patient to be with it, and one request."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from threading import Event
from typing import Any

from didact.core.errors import RunError

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
