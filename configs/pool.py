"""Processes for the cells of a comparison: each has one of its own, with GPUs of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from threading import Thread
from types import TracebackType
from typing import Literal

from didact.core.errors import RunError

PRELOADED = ["didact.configs.launch", "transformers.modeling_utils"]
"""Imported once, by the server that the processes are forked from; none of it touches a GPU."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Ended:
    """How a call ended: with what it returned, or with why it failed."""

    name: str
    outcome: str = ""
    failure: str = ""


@dataclass(frozen=True)
class _Running:
    name: str
    process: ForkServerProcess
    said: Connection
    ready: Event
    gpus: tuple[str, ...]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None, "it was started"
        return self.process.pid


class Pool:
    """Runs calls, at most so many at once. Each has a process of its own, so that one that is
    killed is alone in it, its peak memory is its own, and it sees no GPU but its own.

    Ctrl-C reaches the caller only; leaving the block by an exception interrupts every process,
    once, and waits until it has written its state. Processes do not outlive the caller.

    Args:
        jobs: most processes at once.
        gpus: what to share out, as CUDA_VISIBLE_DEVICES names them.
        cpus: threads of each process, unless OMP_NUM_THREADS says it; None: its share of the cores,
            and for a single job what torch takes.

    Attributes:
        most: processes that were going on at once.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = (), cpus: int | None = None) -> None:
        self.jobs, self.gpus, self.free, self.most = jobs, tuple(gpus), list(gpus), 0
        threads = cpus or max(cores() // jobs, 1)
        self.limits = {"OMP_NUM_THREADS": str(threads)} if cpus or jobs > 1 else {}
        self.running: list[_Running] = []
        self.context = get_context("forkserver")
        _serve()

    def room(self, gpus: int) -> bool:
        """Whether a call that needs so many GPUs could start now."""
        return len(self.running) < self.jobs and gpus <= len(self.free)

    def start(self, name: str, gpus: int, call: Callable[..., object], *arguments: object) -> None:
        """Start a call. Its outcome is `str` of what it returns; 0 GPUs leave all of them visible.

        Raises:
            RunError: there is no room.
        """
        if not self.room(gpus):
            raise RunError(f"{name}: no room for a call with {gpus} GPUs.")
        mine = tuple(self.free.pop(0) for _ in range(gpus))
        environment = {**self.limits, **os.environ}
        if mine:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        receiver, sender = self.context.Pipe(duplex=False)
        ready = self.context.Event()
        process = self.context.Process(
            target=_child, args=(environment, sender, ready, call, arguments), name=name
        )
        process.start()
        sender.close()
        self.running.append(_Running(name, process, receiver, ready, mine))
        self.most = max(self.most, len(self.running))

    def ended(self) -> list[Ended]:
        """Wait until a call ends; how those that did ended. Their GPUs are free again."""
        connection.wait([one.process.sentinel for one in self.running])
        over = [one for one in self.running if not one.process.is_alive()]
        self.running = [one for one in self.running if one not in over]
        for one in over:
            self.free += one.gpus
        return [_ended(one) for one in over]

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        try:
            for one in self.running:  # what comes before it is ready is lost
                while one.process.is_alive() and not one.ready.wait(0.1):
                    pass
            self._tell(signal.SIGINT)
            self._join()
        except KeyboardInterrupt:
            self._tell(signal.SIGKILL)
            self._join()
        return False

    def _tell(self, what: signal.Signals) -> None:
        for one in self.running:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(one.pid, what)

    def _join(self) -> None:
        for one in self.running:
            one.process.join()


def _serve() -> None:
    """Start the server, which imports from where the caller does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _ended(one: _Running) -> Ended:
    """What a process that is over said; or, if it could not say anything, how it died. What it has
    left behind, an engine's processes say, ends now: the next cell needs the room."""
    with suppress(ProcessLookupError):
        os.killpg(one.pid, signal.SIGKILL)
    try:
        if not one.said.poll():
            return Ended(one.name, failure=_death(one.process.exitcode))
        returned, text = one.said.recv()
        return Ended(one.name, outcome=text) if returned else Ended(one.name, failure=text)
    except EOFError:
        return Ended(one.name, failure=_death(one.process.exitcode))
    finally:
        one.said.close()
        one.process.close()


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with status {code} and said nothing"
    name = signal.Signals(-code).name
    why = " (out of memory, or by hand)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{why}"


def _child(
    environment: Mapping[str, str],
    sender: Connection,
    ready: Event,
    call: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    """In the process: make it its own, call, and tell how it went."""
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    Thread(target=_leave_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" in environment:  # read before the fork, when torch was loaded
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        ready.set()
        sender.send((True, str(call(*arguments))))
    except KeyboardInterrupt:
        sender.send((True, "interrupted"))
    except BaseException as error:
        sender.send((False, str(error).splitlines()[0] if str(error) else repr(error)))


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
