"""The short tables that a terminal gets: accuracy by part, and the demonstrations it took."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import nan
from typing import TYPE_CHECKING

from didact.core.report.comparison import Comparison
from didact.core.report.scores import Score

if TYPE_CHECKING:
    from rich.table import Table

MOST = 8
"""Columns that still fit side by side; the report has the others too."""
Means = Mapping[str, Mapping[str, float]]
"""By part and method, a share."""


def print_summary(found: Comparison) -> None:
    """Print a line a method, in percent, as the report says it.

    One table for all questions and the values of metadata keys, one for the base-difficulty bins;
    "demos" are demonstrations learnt from, a mean over runs.
    """
    from rich.console import Console

    if found.evidence is None:
        return
    metric = found.evidence.main
    whole = [s for s in found.final if s.metric == metric and s.benchmark == "all"]
    first = _means(whole)
    for scores in (found.parts[key] for key in found.parts if key != "bin"):
        means = _means(scores)
        first |= means if len(first) + len(means) <= MOST else {}
    for means in filter(None, (first, _means(found.parts.get("bin", ())))):
        wide = None if sys.stdout.isatty() else max(80, 24 + 11 * len(means))
        plain = Console(markup=False, highlight=False, width=wide)
        plain.print(_table(found, f"{metric}, % right", means))


def _means(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for score in scores:
        means[score.part][score.label] = score.own.mean
    return dict(means)


def _table(found: Comparison, title: str, means: Means) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    spent = {cost.label: cost.totals["demonstrations"] for cost in found.costs}
    table = Table(title=title, box=SIMPLE, padding=(0, 1))
    table.add_column("method", min_width=16)
    for part in (*(name.replace("=", " ") for name in means), "demos"):
        table.add_column(part, justify="right", min_width=6)
    for label in found.labels:
        states = {run.status for run in found.runs if run.label == label}
        if "finished" not in states:
            table.add_row(label, "failed" if "failed" in states else "no run")
            continue
        shares = [_shown(100 * own.get(label, nan), 1) for own in means.values()]
        table.add_row(label, *shares, _shown(spent.get(label, nan), 0))
    return table


def _shown(value: float, digits: int) -> str:
    return "—" if value != value else f"{value:,.{digits}f}"
