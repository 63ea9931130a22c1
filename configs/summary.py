"""The short table that a comparison prints: accuracy by part, and the demonstrations it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from statistics import mean
from typing import TYPE_CHECKING

from didact.configs.comparison import Cell
from didact.core.report.read import read_metrics

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
        shares = (_mean(finished, name, 100) for name in names)
        demonstrations = _mean(finished, "spent/demonstrations")
        shown = ("—" if isnan(value) else f"{value:.1f}" for value in shares)
        table.add_row(label, *shown, f"{demonstrations:,.0f}")
    return table


def _mean(runs: Sequence[Mapping[str, float]], name: str, times: float = 1) -> float:
    """Over the runs that have it; nan if none has."""
    values = [run[name] for run in runs if name in run]
    return mean(values) * times if values else nan


def _last(cell: Cell) -> dict[str, float]:
    """The last evaluation of a finished cell, and what it spent; empty if it did not finish."""
    if not cell.folder.final.exists():
        return {}
    train, evaluations = read_metrics(cell.folder.path, [])  # the report says what is cut off
    rows = [*list(train.values())[-1:], *list(evaluations.values())[-1:]]
    wanted = ("spent/", "eval/")
    return {k: v for row in rows for k, v in row.items() if k.startswith(wanted)}


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
