"""A pool of worker processes that are killed when a job takes too long.

Workers are fresh interpreters that speak lines of JSON over pipes. They are not forks, so they are
safe beside threads, CUDA and `torchrun`, and need no guarded main module.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from didact.core.errors import RewardError

START = 120.0
"""Seconds that a worker may take to import what it needs."""

Job = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Killed:
    """The job took too long. `stage` is the last one the worker had announced, "" if none."""

    stage: str


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended by itself, by this exit status (negative: the signal)."""

    status: int | None


Outcome = Mapping[str, Any] | Killed | Died


@dataclass(eq=False)
class Worker:
    """One process, and the job it has."""

    process: subprocess.Popen[bytes]
    deadline: float
    ready: bool = False
    job: int | None = None
    stage: str = ""
    unread: bytes = b""

    def stop(self) -> int | None:
        """Kill it, whatever it does, and free its pipes. Its exit status if it had ended."""
        status = self.process.poll()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return status


class WorkerPool:
    """Runs jobs in `workers` processes of `python -m module`; starts them when first needed.

    A worker is told its time limit on the command line, says `{"ready": true}`, and then answers
    each job, a line of JSON, by `{"stage": name}` as often as it likes and one final line without
    "stage". `close` ends all of them; so do garbage collection and the interpreter's exit, and a
    worker whose parent is gone ends by itself.

    Attributes:
        module: what to run.
        workers: processes at most.
        seconds: limit for one job, in wall time; then its worker is killed and replaced.
    """

    def __init__(self, module: str, workers: int, seconds: float) -> None:
        if workers < 1 or not (seconds > 0 and math.isfinite(seconds)):
            raise RewardError(
                f"a pool needs at least 1 worker and a time limit above 0 s, "
                f"not {workers} and {seconds} s."
            )
        self.module, self.workers, self.seconds = module, workers, seconds
        self._alive: list[Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        weakref.finalize(self, _stop_all, self._alive, self._owner)

    def __reduce__(self) -> tuple[type[WorkerPool], tuple[str, int, float]]:
        return type(self), (self.module, self.workers, self.seconds)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcome of each job, in order.

        Raises:
            RewardError: a worker cannot start.
        """
        with self._lock:
            if self._owner != os.getpid():  # a fork: the workers are the parent's
                self._alive, self._owner = [], os.getpid()
                weakref.finalize(self, _stop_all, self._alive, self._owner)
            try:
                return _Round(self, jobs, self._alive).outcomes()
            except BaseException:  # answers of half-done jobs must not reach the next call
                _stop_all(self._alive, self._owner)
                raise

    def close(self) -> None:
        """End all workers; the next `run` starts new ones."""
        with self._lock:
            _stop_all(self._alive, self._owner)

    def start(self) -> Worker:
        """A new process, not yet ready."""
        command = [sys.executable, "-P", "-m", self.module, str(self.seconds)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the pool
        )
        return Worker(process, time.monotonic() + START)


@dataclass
class _Round:
    """One call of `run`: jobs that wait, and what became of the others."""

    pool: WorkerPool
    jobs: Sequence[Job]
    alive: list[Worker]
    done: dict[int, Outcome] = field(default_factory=dict)

    def outcomes(self) -> list[Outcome]:
        waiting = deque(range(len(self.jobs)))
        while len(self.done) < len(self.jobs):
            while len(self.alive) < min(self.pool.workers, len(self.jobs) - len(self.done)):
                self.alive.append(self.pool.start())
            for worker in [w for w in self.alive if w.ready and w.job is None]:
                if waiting:
                    self._give(worker, waiting.popleft())
            self._listen()
        return [self.done[at] for at in range(len(self.jobs))]

    def _give(self, worker: Worker, job: int) -> None:
        assert worker.process.stdin is not None
        worker.job, worker.stage = job, ""
        worker.deadline = time.monotonic() + self.pool.seconds
        unsent = memoryview(json.dumps(self.jobs[job]).encode() + b"\n")
        try:
            while unsent:
                unsent = unsent[os.write(worker.process.stdin.fileno(), unsent) :]
        except BrokenPipeError:
            self._bury(worker)

    def _listen(self) -> None:
        busy = [w for w in self.alive if w.job is not None or not w.ready]
        if not busy:
            return
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            left = min(worker.deadline for worker in busy) - time.monotonic()
            for key, _ in selector.select(max(left, 0.0)):
                self._hear(key.data)
        for worker in busy:
            late = time.monotonic() > worker.deadline and worker in self.alive
            if late and (worker.job is not None or not worker.ready):
                self._kill(worker)

    def _hear(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        heard = worker.process.stdout.read(65536)
        if not heard:
            self._bury(worker)
            return
        *lines, worker.unread = (worker.unread + heard).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "stage" in said:
                worker.stage = said["stage"]
            elif worker.job is None:
                self._started(worker, said)
            else:
                self.done[worker.job] = said
                worker.job = None

    def _started(self, worker: Worker, said: Mapping[str, Any]) -> None:
        if not said.get("ready"):
            raise RewardError(f"a worker of {self.pool.module} cannot start: {said.get('failed')}.")
        worker.ready = True

    def _kill(self, worker: Worker) -> None:
        self.alive.remove(worker)
        worker.stop()
        if worker.job is None:
            raise RewardError(f"a worker of {self.pool.module} was not ready after {START:.0f} s.")
        self.done[worker.job] = Killed(worker.stage)

    def _bury(self, worker: Worker) -> None:
        """Take away a worker that ended by itself."""
        self.alive.remove(worker)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(1.0)
        status = worker.stop()
        if worker.job is None:
            raise RewardError(
                f"a worker of {self.pool.module} ended with status {status} before it was ready."
            )
        self.done[worker.job] = Died(status)


def _stop_all(workers: list[Worker], owner: int) -> None:
    """End the workers, unless this is a fork of the process that owns them."""
    while workers and owner == os.getpid():
        workers.pop().stop()
