"""Clocks that several benchmarks share: seconds of calls, of methods, and of a run's steps."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Taken:
    """Seconds that a call took, over its repetitions."""

    least: float
    median: float

    @staticmethod
    def by(call: Callable[[], object], repeat: int, clock: Callable[[], float]) -> Taken:
        """Time a call after one that does not count."""
        call()
        seconds = []
        for _ in range(repeat):
            began = clock()
            call()
            seconds.append(clock() - began)
        return Taken(min(seconds), statistics.median(seconds))


def wall(device: torch.device) -> Callable[[], float]:
    """Wall time, after everything that was asked of a GPU is done."""
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def clock_of(device: torch.device) -> Callable[[], float]:
    """On a CPU its own seconds, which a busy machine does not stretch; on a GPU wall time."""
    return wall(device) if device.type == "cuda" else time.process_time


def machine(device: torch.device) -> str:
    """What is measured on, and how busy it is."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; load average "
        f"{load} on {os.cpu_count()} cores"
    )


class Depth(threading.local):
    """How many timed methods are being called, one in another, by each thread."""

    calls = 0


def timed(
    owner: Any,
    name: str,
    label: str,
    spent: dict[str, float],
    clock: Callable[[], float] = time.perf_counter,
    depth: Depth | None = None,
) -> None:
    """Add the time spent in a method to `spent[label]`; nested calls count once.

    Methods that share a depth count only outside of each other.
    """
    inner, within = getattr(owner, name), depth or Depth()

    def call(*arguments: Any, **keywords: Any) -> Any:
        within.calls += 1
        began = clock()
        try:
            return inner(*arguments, **keywords)
        finally:
            within.calls -= 1
            if not within.calls:
                spent[label] += clock() - began

    setattr(owner, name, call)


def losses_into(spent: dict[str, float]) -> None:
    """Add the time that the terms of a rule take on micro-batches to `spent["loss"]`."""
    from didact.core.backends.scalars import Scalars

    inner = Scalars.over

    def over(*arguments: Any) -> Any:
        bound = inner(*arguments)

        def terms(*given: Any) -> Any:
            began = time.perf_counter()
            out = bound(*given)
            spent["loss"] += time.perf_counter() - began
            return out

        return terms

    Scalars.over = over  # type: ignore[method-assign]


def steps_into(marks: list[dict[str, float]], spent: dict[str, float]) -> None:
    """From now on every step of a run leaves its seconds ("step"), and what `timed` saw, in
    `marks`; what observers do between two steps is not in it."""
    from didact.core import loop, session

    inner = loop.train

    def watched(*arguments: Any) -> Iterator[Any]:
        began = time.perf_counter()
        for groups in inner(*arguments):
            marks.append({"step": time.perf_counter() - began, **spent})
            spent.clear()
            yield groups
            began = time.perf_counter()

    session.train = watched  # type: ignore[assignment]
