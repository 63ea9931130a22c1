"""Tables as text, HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LONG = 22  # characters of a row's name from which it may be broken


@dataclass(frozen=True)
class Table:
    """Cells as text; the first `heads` columns are row headers, the others are numbers.

    Attributes:
        marks: CSS classes of rows, by row number ("better", "worse", "baseline", "failed").
        wide: cells are long texts, which may break anywhere.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    heads: int = 1
    notes: Sequence[str] = ()
    marks: Sequence[str] = ()
    wide: bool = False

    def html(self) -> str:
        """A table in a frame of its own that scrolls sideways on narrow screens."""
        head = "".join(
            f'<th scope="col" class="{_size(name)}{" head" if at < self.heads else ""}">'
            f"{escape(name)}</th>"
            for at, name in enumerate(self.columns)
        )
        marks = [*self.marks, *[""] * (len(self.rows) - len(self.marks))]
        rows = [
            f'<tr class="{mark}">{self._cells(row)}</tr>'
            for row, mark in zip(self.rows, marks, strict=True)
        ]
        notes = "".join(f"<p class=note>{escape(note)}</p>" for note in self.notes)
        kind = "wide" if self.wide else "numbers"
        return (
            f'<div class=scroll tabindex=0 role=region aria-label="{escape(self.title)}">'
            f"<table class={kind}><caption>{escape(self.title)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{notes}"
        )

    def _cells(self, row: Sequence[str]) -> str:
        heads = "".join(
            f'<th scope="row" class={_size(cell)}>{escape(cell)}</th>' for cell in row[: self.heads]
        )
        return heads + "".join(f"<td>{escape(cell)}</td>" for cell in row[self.heads :])

    def markdown(self) -> str:
        """A Markdown table under its title."""
        lines = [
            "| " + " | ".join(_flat(cell) for cell in row) + " |"
            for row in (self.columns, *self.rows)
        ]
        align = ["---"] * self.heads + ["---:"] * (len(self.columns) - self.heads)
        lines.insert(1, "| " + " | ".join(align) + " |")
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"### {_flat(self.title)}\n\n" + "\n".join(lines) + "\n" + notes


def _size(cell: str) -> str:
    return "long" if len(cell) > LONG else "short"


def _flat(text: str) -> str:
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def percent(value: float) -> str:
    """A share in percent, one decimal."""
    return "—" if math.isnan(value) else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "—" if math.isnan(value) else "0.0" if value == 0 else f"{100 * value:+.1f}"


def span(low: float, high: float, *, sign: bool = False) -> str:
    """An interval of shares."""
    if math.isnan(low):
        return "—"
    form = points if sign else percent
    return f"{form(low)} to {form(high)}"


def amount(value: float) -> str:
    """A count or duration as people read it."""
    if math.isnan(value):
        return "—"
    if value and abs(value) < 9.995:
        return f"{value:.2f}"
    return f"{value:,.0f}"
