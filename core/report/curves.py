"""Learning curves, thinned: every metric of every run over every budget axis."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from didact.core.report.cells import AXES
from didact.core.report.costs import running
from didact.core.report.read import Row, RunRecord

POINTS = 150
MOST_METRICS = 100

# What people look at first, in this order; everything else follows by name.
FIRST = (
    r"eval/greedy$",
    r"eval/avg@\d+$",
    r"reward/policy$",
    r"success/policy$",
    r"entropy/policy$",
    r"[^/]+/entropy$",
    r"length/policy$",
    r"truncated/policy$",
    r".*kl",
    r".*mismatch",
    r"eval/pass@\d+$",
    r"eval/",
)
MAIN = 10  # the first so many of them get charts of their own
MOST_CHARTS = 14
HIDDEN = re.compile(r"seconds/|spent/|calls/|step$|kind$|eval/problems")


@dataclass(frozen=True)
class Curves:
    """Curves of all runs as plain data.

    Attributes:
        metrics: names, those that people look at first in front.
        main: how many of them those are.
        axes: budget axes that at least one run recorded.
        runs: `{label, seed, finished, train: {x: {axis: […]}, y: {metric: […]}}, evaluation: …}`.
        every: steps that one training point is the mean of, at most.
    """

    metrics: tuple[str, ...]
    axes: tuple[str, ...]
    runs: tuple[Mapping[str, Any], ...]
    every: int
    main: int
    left_out: int


def curves(runs: Sequence[RunRecord]) -> Curves:
    """Curves of the runs that have metrics, failed and unfinished ones included."""
    shown = [run for run in runs if run.train or run.evaluations]
    names = {
        key
        for run in shown
        for row in (*run.train.values(), *run.evaluations.values())
        for key, value in row.items()
        if isinstance(value, (int, float)) and not HIDDEN.match(key)
    }
    ordered = sorted(names, key=_rank)
    longest = max((len(run.train) for run in shown), default=1)
    every = math.ceil(max(longest, 1) / POINTS)
    made = tuple(_run(run, ordered[:MOST_METRICS], every) for run in shown)
    axes = tuple(axis for axis in AXES if any(any(run["train"]["x"].get(axis, ())) for run in made))
    main = min(sum(_rank(name)[0] < MAIN for name in ordered), MOST_CHARTS)
    kept, left = tuple(ordered[:MOST_METRICS]), len(ordered[MOST_METRICS:])
    return Curves(kept, axes, made, every, main, left)


def _rank(name: str) -> tuple[int, str]:
    return next((at for at, like in enumerate(FIRST) if re.match(like, name)), len(FIRST)), name


def _run(run: RunRecord, metrics: Sequence[str], every: int) -> Mapping[str, Any]:
    steps = list(run.train)
    sums = {axis: running(run, axis) for axis in AXES}
    at = dict(zip(steps, range(len(steps)), strict=True))
    chunks = [range(i, min(i + every, len(steps))) for i in range(0, len(steps), every)]
    rows = list(run.train.values())
    train = {
        "x": {axis: [_short(v[chunk[-1]]) for chunk in chunks] for axis, v in sums.items() if v},
        "y": _columns(metrics, [[rows[i] for i in chunk] for chunk in chunks]),
    }
    if "steps" in train["x"]:
        train["x"]["steps"] = [float(steps[chunk[-1]]) for chunk in chunks]
    evaluation: dict[str, Any] = {
        "x": {
            axis: [_at(v, at, step) for step in run.evaluations] for axis, v in sums.items() if v
        },
        "y": _columns(metrics, [[row] for row in run.evaluations.values()]),
    }
    evaluation["x"]["steps"] = [float(step) for step in run.evaluations]
    about = {"label": run.label, "seed": run.seed, "finished": run.status == "finished"}
    return {**about, "train": train, "evaluation": evaluation}


def _at(sums: Sequence[float], at: Mapping[int, int], step: int) -> float | None:
    """The budget used when an evaluation after `step` steps was made."""
    if step == 0:
        return 0.0
    return _short(sums[at[step]]) if step in at else None


def _columns(metrics: Sequence[str], chunks: Sequence[Sequence[Row]]) -> dict[str, list[Any]]:
    """Means of each metric over each chunk of rows; None where it is absent."""
    out = {}
    for name in metrics:
        values = [_mean([row[name] for row in rows if name in row]) for rows in chunks]
        if any(value is not None for value in values):
            out[name] = values
    return out


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return _short(sum(finite) / len(finite)) if finite else None


def _short(value: float) -> float:
    """Five figures, which a screen does not exceed."""
    return float(f"{value:.5g}")
