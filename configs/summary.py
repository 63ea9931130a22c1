"""The short table that a comparison prints: accuracy by part, and the demonstrations it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import mean

from didact.configs.comparison import Cell

BINS = ("easy", "medium", "hard", "hardest")


def print_summary(cells: Sequence[Cell]) -> None:
    """Print one line a method: means over its finished seeds, in percent, of the last evaluation."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    results = {cell.name: _last(cell) for cell in cells}
    found = [metrics for metrics in results.values() if metrics]
    if not found:
        return
    score = _score(found[0])
    parts = _parts(found, score)
    table = Table(title=f"{score}, % right (means over seeds)", box=SIMPLE, padding=(0, 1))
    table.add_column("method", min_width=14)
    for part in ("all", *parts, "demos=used", "seeds"):
        table.add_column(part.replace("=", "\n"), justify="right", no_wrap=True)
    for label in dict.fromkeys(cell.label for cell in cells):
        runs = [m for c in cells if c.label == label and (m := results[c.name])]
        if not runs:
            table.add_row(label, "failed: see the report")
            continue
        names = [f"eval/{score}", *(f"eval/{score}/{part}" for part in parts)]
        values = [mean(run[n] for run in runs if n in run) * 100 for n in names]
        spent = mean(run["spent/demonstrations"] for run in runs)
        table.add_row(label, *(f"{v:.1f}" for v in values), f"{spent:,.0f}", str(len(runs)))
    Console().print(table)


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
