"""What a person sees while something runs: a progress bar on a terminal, else one line a step."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from didact.core.protocols import Run
from didact.core.types import Group


class Console:
    """Prints to standard error, so that standard output stays for results.

    Args:
        quiet: say nothing but what is asked for.
        indent: text before every line; nested runs are indented.
    """

    def __init__(self, quiet: bool = False, indent: str = "") -> None:
        self.quiet, self.indent = quiet, indent
        self.live = sys.stderr.isatty() and not quiet

    def nested(self) -> Console:
        """For a run inside a run."""
        inner = Console(self.quiet, self.indent + "  ")
        inner.live = self.live
        return inner

    def say(self, text: str) -> None:
        if not self.quiet:
            print(self.indent + text, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """A bar with rate and time left; the block calls back with (done, total)."""
        if not self.live:
            yield lambda done, of: None
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
            task = bar.add_task(self.indent + what, total=total)
            yield lambda done, of: bar.update(task, completed=done, total=of)

    def table(self, metrics: Mapping[str, float]) -> None:
        """Metrics of an evaluation, one a line, on standard output."""
        for name, value in metrics.items():
            print(f"{name:40} {value:10.4f}")

    def watching(self, steps: int, phases: Iterable[str] = ()) -> Watch:
        """An observer that reports a run of so many steps here, and phases that never stepped."""
        return Watch(self, steps, phases)


class Watch:
    """Reports each step on one line (a terminal's is rewritten), with rate and time left.

    In the log of a run inside a run, steps that take less than a second share a line.
    """

    def __init__(self, console: Console, steps: int, phases: Iterable[str] = ()) -> None:
        self.console, self.steps = console, steps
        self.idle = dict.fromkeys(phases)
        self.began = time.perf_counter()
        self.first: int | None = None
        self.said = 0.0
        self.step = "before the first step"

    def on_start(self, run: Run) -> None:
        self.began = time.perf_counter()
        for generator in run.generators.values():
            if self.console.live and hasattr(generator, "progress"):
                generator.progress = self._answering

    def _answering(self, done: int, total: int) -> None:
        """On a terminal: how far the engine is with what it was asked, several times a second."""
        now = time.perf_counter()
        if now - self.said > 0.2 and done < total:
            self.said = now
            self._line(f"{self.step}  generating: {done}/{total} responses", keep=False)

    def on_step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        self.first = step if self.first is None else self.first
        for name in [name for name in self.idle if f"{name}/updates" in metrics]:
            del self.idle[name]
        done = step + 1
        pace = (time.perf_counter() - self.began) / (done - self.first)
        now = time.perf_counter()
        inner = self.console.indent and not self.console.live
        if inner and now - self.said < 1.0 and done < self.steps:
            return
        self.said = now
        self.step = f"step {done + 1}/{self.steps}"
        left = pace * (self.steps - done)
        line = (
            f"step {done}/{self.steps}  {_brief(metrics)}  {pace:.2f} s/step  {_clock(left)} left"
        )
        self._line(line, keep=False)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = [f"{k.removeprefix('eval/')} {v:.3f}" for k, v in metrics.items() if _headline(k)]
        self._line(f"after step {step}:  " + "  ".join(shown), keep=True)

    def on_checkpoint(self, step: int, folder: Path) -> None:
        self._line(f"state after step {step} in {folder}", keep=True)

    def on_end(self, error: BaseException | None) -> None:
        if self.console.live:
            print(file=sys.stderr)
        elif error is not None:
            self.console.say(f"stopped: {type(error).__name__}")
        if error is None and self.first == 0:
            for name in self.idle:
                self.console.say(f"note: phase '{name}' never stepped; see its 'take' and 'when'")

    def _line(self, text: str, keep: bool) -> None:
        if not self.console.live:
            self.console.say(text)
            return
        end = "\n" if keep else ""
        if not keep:  # a line that wraps could not be rewritten
            text = text[: shutil.get_terminal_size().columns - len(self.console.indent) - 1]
        print(f"\r\x1b[2K{self.console.indent}{text}", end=end, file=sys.stderr, flush=True)


COUNTED = frozenset({"reward/failed", "reward/groups_lost"})


def _headline(name: str) -> bool:
    return not any(mark in name for mark in ("=", "problems", "truncated", "length"))


def _brief(metrics: Mapping[str, Any]) -> str:
    """The few numbers that a person follows: rewards by origin, losses, gradient norms."""
    wanted = [
        (name.replace("/policy", ""), value)
        for name, value in metrics.items()
        if (name.startswith(("reward/", "success/", "entropy/")) and name.count("/") == 1)
        or name.endswith(("/loss", "/grad_norm"))
    ]
    return "  ".join(f"{name} {value:.3g}" for name, value in wanted if name not in COUNTED)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
