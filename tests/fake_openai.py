"""A FAKE OpenAI-compatible server on 127.0.0.1: it answers and fails as a script says."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

from fake_http import Answers, running

from didact.core.backends.endpoint import Endpoint


@dataclass
class Script:
    """What the FAKE server does, and what it saw."""

    answer: object = None
    failures: list = field(default_factory=list)
    models: tuple = ("tiny",)
    seen: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    most: int = 0
    now: int = 0
    delay: float = 0.0
    lock: object = field(default_factory=threading.Lock)


def handler(script):
    class Handler(Answers):
        def do_GET(self):
            self.send({"data": [{"id": name} for name in script.models]})

        def do_POST(self):
            body = self.body()
            with script.lock:
                script.now += 1
                script.most = max(script.most, script.now)
                script.seen.append((self.path, body))
                script.keys.append(self.headers.get("Authorization"))
                failure = script.failures.pop(0) if script.failures else None
            time.sleep(script.delay)
            with script.lock:
                script.now -= 1
            if failure is not None:
                self.send({"error": {"message": f"no, {failure}"}}, failure)
            else:
                self.send(script.answer(body))

    return Handler


@contextmanager
def serving(script, port=0):
    with running(handler(script), port) as server:
        yield server.server_port


def endpoint(port, **settings):
    return Endpoint(f"http://127.0.0.1:{port}/v1", pause=0.01, **settings)
