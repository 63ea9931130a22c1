"""The built-in observers: metrics as JSONL and TensorBoard, and trajectories as JSONL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from didact.core.protocols import Run
from didact.core.ranges import Count
from didact.core.types import Group, Trajectory


class JsonLines:
    """Appends one line a step to `metrics.jsonl`, and one an evaluation."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def on_step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        self._write({"step": step + 1, "kind": "train", **metrics})

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write({"step": step, "kind": "evaluation", **metrics})

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def on_end(self, error: BaseException | None) -> None:
        self._file.close()


class TensorBoard:
    """Writes every metric to TensorBoard event files under `tensorboard/`.

    What a run that was killed had logged after the state it goes on from is no longer shown.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder / "tensorboard")
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self._folder, purge_step=run.step + 1)

    def on_step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        self._write(step + 1, metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, metrics)

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def on_end(self, error: BaseException | None) -> None:
        if self._writer is not None:
            self._writer.close()


class Trajectories:
    """Writes trajectories to `trajectories.jsonl`: the groups of a step, or a few of them.

    Attributes:
        keep: "sampled" writes the first `groups` groups of every `every`-th step, "all" all.
    """

    def __init__(
        self,
        folder: Path,
        keep: Literal["sampled", "all"] = "sampled",
        groups: Count = 2,
        every: Count = 10,
    ) -> None:
        self._file = (folder / "trajectories.jsonl").open("a", encoding="utf-8")
        self._groups = groups if keep == "sampled" else None
        self._every = every if keep == "sampled" else 1

    def on_step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        if step % self._every:
            return
        for group in groups[: self._groups]:
            for member in group.leaving():
                self._file.write(json.dumps({"step": step + 1, **described(member)}) + "\n")
        self._file.flush()

    def on_end(self, error: BaseException | None) -> None:
        self._file.close()


def described(member: Trajectory) -> dict[str, Any]:
    """A trajectory as a person reads it: texts and signals, no tokens."""
    return {
        "prompt": member.prompt.id,
        "question": member.prompt.problem.question,
        "response": member.text,
        "origin": member.origin,
        "truncated": member.truncated,
        "version": member.version,
        "tokens": len(member.tokens),
        "signals": dict(member.signals),
        "feedback": [{"source": f.source, "text": f.text} for f in member.feedback],
    }
