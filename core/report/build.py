"""Builds a report from finished runs: HTML, Markdown, CSV and PNG."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from didact.core.folder import replacing
from didact.core.report import tables
from didact.core.report.cells import AXES, Cells, find_cells
from didact.core.report.charts import charts
from didact.core.report.comparison import Comparison, compared
from didact.core.report.images import write_images
from didact.core.report.page import html_page
from didact.core.report.scores import Score
from didact.core.report.table import Table

COLUMNS = (
    "section",
    "method",
    "benchmark",
    "part",
    "metric",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "p_questions",
    "p_seeds",
    "p",
    "p_holm",
    "seeds",
    "questions",
)


def build_report(
    paths: Sequence[Path | str] | Path | str | Cells,
    out: Path | str,
    baseline: str | None = None,
    title: str | None = None,
) -> Path:
    """Write `report.html`, `report.md`, `report.csv` and `figures/*.png`; returns the HTML file.

    Args:
        paths: run folders and comparison folders, or cells that were found otherwise.
        out: folder that the report is written to; files of an older report are replaced.
        baseline: label that all others are compared with; by default the comparison's, else the
            first run's.

    Raises:
        DataError: the runs cannot be compared (different questions, different base models), a
            path is no run, or nothing has started.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    cells = paths if isinstance(paths, Cells) else find_cells([Path(path) for path in paths])
    return write_report(compared(cells.with_choices(baseline, title)), out)


def write_report(found: Comparison, out: Path | str) -> Path:
    """Write what was worked out; returns the HTML file."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    images = write_images(found, charts(found), folder / "figures")
    _write(folder / "report.md", markdown(found, [str(p.relative_to(folder)) for p in images]))
    with replacing(folder / "report.csv") as new, new.open("w", newline="", encoding="utf-8") as to:
        csv.writer(to).writerows([COLUMNS, *csv_rows(found)])
    page = folder / "report.html"
    _write(page, html_page(found))
    return page


def _write(file: Path, text: str) -> None:
    with replacing(file) as new:
        new.write_text(text, encoding="utf-8")


def markdown(found: Comparison, images: Sequence[str]) -> str:
    """The report without its browser of answers."""
    about = f"{_line(found.cells.about)}\n" if found.cells.about else ""
    parts = [f"# {_line(found.cells.title)}\n", about, _bullets("Findings", found.words)]
    parts.append(_bullets("Before you believe it", found.caveats))
    parts += [table.markdown() for table in _all_tables(found)]
    parts.append(_bullets("Notices", found.notices))
    if images:
        shown = "\n\n".join(f"![{Path(image).stem}]({image})" for image in images)
        parts.append(f"## Figures\n\n{shown}\n")
    return "\n".join(part for part in parts if part)


def _all_tables(found: Comparison) -> Iterable[Table]:
    yield from tables.final_tables(found.final, found.baseline)
    for key, scores in found.parts.items():
        yield tables.part_table(key, scores, found.baseline)
    if found.passes:
        yield tables.pass_table(found.passes)
    if found.costs:
        yield tables.cost_table(found.costs, found.baseline, found.cells.budget)
        yield tables.stage_table(found.costs)
    if found.overlap:
        yield from tables.overlap_tables(found.overlap)
    for label, rows in found.diffs.items():
        yield tables.diff_table(label, found.baseline, rows)
    yield tables.run_table(found.runs)


def _bullets(title: str, items: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {_line(i)}" for i in items) + "\n" if items else ""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def csv_rows(found: Comparison) -> list[list[str]]:
    """Every number in long form; accuracies are shares, empty means unknown."""
    scores = [*found.final, *(s for part in found.parts.values() for s in part), *found.passes]
    rows = [_score_row(score) for score in scores]
    for cost in found.costs:
        totals = {axis: cost.totals[axis] for axis in AXES}
        each = totals | {"demonstrations share": cost.share}
        each |= {f"peak {whose} memory GiB": value for whose, value in cost.memory.items()}
        each |= {f"seconds/{name}": value for name, value in cost.stages.items()}
        each |= {f"used/{origin}": value for origin, value in cost.used.items()}
        rows += [_cost_row(cost.label, name, value, cost.runs) for name, value in each.items()]
    return rows


def _score_row(score: Score) -> list[str]:
    own, against = score.own, score.against
    row = [score.section, score.label, score.benchmark, score.part, score.metric]
    row += [_number(own.mean), _number(own.low), _number(own.high)]
    if against is None:
        row += [""] * 7
    else:
        other = against.estimate
        values = (other.mean, other.low, other.high, against.p_questions, against.p_seeds)
        row += [_number(value) for value in (*values, against.p, score.p_holm)]
    return [*row, str(own.seeds), str(own.questions)]


def _cost_row(label: str, name: str, value: float, runs: int) -> list[str]:
    empty = [""] * (len(COLUMNS) - 8)
    return ["cost", label, "all", "all", name, _number(value), *empty, str(runs), ""]


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.10g}"
