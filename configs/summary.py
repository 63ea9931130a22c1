"""The short table that a comparison prints: accuracy by part, and the demonstrations it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from didact.configs.comparison import Cell

if TYPE_CHECKING:
    from rich.table import Table

BINS = ("easy", "medium", "hard", "hardest")


def print_summary(cells: Sequence[Cell]) -> None:
    """Print a line a method, of the last evaluation: means over its finished seeds, in percent.

    One table for all problems and each metadata key's values, one for the base-difficulty bins;
    "demos" are demonstrations learnt from.
    """
    from rich.console import Console

    results = {cell.name: _last(cell) for cell in cells}
    found = [metrics for metrics in results.values() if metrics]
    if not found:
        return
    score = _score(found[0])
    labels = list(dict.fromkeys(cell.label for cell in cells))
    runs = {
        label: [m for c in cells if c.label == label and (m := results[c.name])] for label in labels
    }
    parts = _parts(found, score)
    bins = [part for part in parts if part.startswith("bin=")]
    others = [part for part in parts if part not in bins]
    for chosen in filter(None, (["", *others], bins)):
        Console().print(_table(score, chosen, runs))


def _table(
    score: str, parts: Sequence[str], runs: Mapping[str, Sequence[Mapping[str, float]]]
) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(title=f"{score}, % right, mean of the seeds", box=SIMPLE, padding=(0, 1))
    table.add_column("method", min_width=16)
    for part in parts:
        table.add_column(part.replace("=", " ") or "all", justify="right")
    table.add_column("demos", justify="right", no_wrap=True)
    for label, finished in runs.items():
        if not finished:
            table.add_row(label, "failed")
            continue
        names = ["/".join(filter(None, ("eval", score, part))) for part in parts]
        means = [mean(run[name] for run in finished if name in run) * 100 for name in names]
        spent = mean(run["spent/demonstrations"] for run in finished)
        table.add_row(label, *(f"{value:.1f}" for value in means), f"{spent:,.0f}")
    return table


def _last(cell: Cell) -> dict[str, float]:
    """The last evaluation of a finished cell, and what it spent; empty if it did not finish."""
    if not cell.folder.final.exists():
        return {}
    out: dict[str, float] = {}
    lines = cell.folder.metrics.read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        wanted = "eval/" if row["kind"] == "evaluation" else "spent/"
        out |= {name: value for name, value in row.items() if name.startswith(wanted)}
    return out


def _score(metrics: Mapping[str, float]) -> str:
    """Sampled accuracy if there is one, else greedy."""
    plain = [name.removeprefix("eval/") for name in metrics if name.count("/") == 1]
    return next((name for name in plain if name.startswith("avg@")), "greedy")


def _parts(found: Sequence[Mapping[str, float]], score: str) -> list[str]:
    """Levels first, then base difficulty from easy to hardest."""
    start = f"eval/{score}/"
    parts = {n.removeprefix(start) for m in found for n in m if n.startswith(start)}
    bins = [f"bin={name}" for name in BINS if f"bin={name}" in parts]
    return [*sorted(parts - set(bins)), *bins]
