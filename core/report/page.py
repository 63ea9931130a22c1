"""The report as one HTML file that opens from disk: script, styles, data and charts inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import Any

from didact.core.report import style, tables
from didact.core.report.answers import Browser
from didact.core.report.charts import charts
from didact.core.report.comparison import Comparison
from didact.core.report.table import Table

# Nothing may be fetched: a report that phones home would be a leak, and would not open offline.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)


def html_page(comparison: Comparison) -> str:
    """The whole page."""
    panels = [
        ("results", "Results", _results(comparison)),
        ("curves", "Curves", _curves(comparison)),
        ("difficulty", "Difficulty", _difficulty(comparison)),
        ("pass", "pass@k", _passes(comparison)),
        ("costs", "Costs", _costs(comparison)),
        ("overlap", "Overlap", _overlap(comparison)),
        ("answers", "Answers", _answers(comparison)),
        ("recipes", "Recipes", _recipes(comparison)),
        ("runs", "Runs", _runs(comparison)),
    ]
    shown = [(name, title, body) for name, title, body in panels if body]
    tabs = "".join(
        f'<button role=tab id="tab-{name}" aria-controls="{name}" aria-selected=false>'
        f"{title}</button>"
        for name, title, _ in shown
    )
    bodies = "".join(
        f'<section role=tabpanel id="{name}" aria-labelledby="tab-{name}"><h2>{title}</h2>{body}'
        "</section>"
        for name, title, body in shown
    )
    title = escape(comparison.cells.title)
    return (
        '<!doctype html><html lang=en><head><meta charset="utf-8">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<link rel=icon href="data:,"><title>{title}</title><style>{_asset("page.css")}</style>'
        f"</head><body><h1>{title}</h1>{_subtitle(comparison)}"
        f'<nav role=tablist aria-label="Parts of the report">{tabs}</nav>'
        "<noscript><p class=warn>Charts and the browser of answers need scripts.</p></noscript>"
        f"<main>{bodies}</main>"
        f'<script type="application/json" id=data>{_data(comparison)}</script>'
        f"<script>{_plotly()}</script><script>{_asset('page.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return (files("didact.core.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source.replace("</script", "<\\/script")


def _data(comparison: Comparison) -> str:
    found = comparison.curves
    browsers = {"training": comparison.training.items}
    if comparison.answers:
        browsers["answers"] = comparison.answers.items
    data = {
        "labels": comparison.labels,
        "baseline": comparison.baseline,
        "style": {"colors": style.COLORS, "dashes": style.DASHES, "markers": style.MARKERS},
        "curves": asdict(found),
        "charts": charts(comparison),
        "browsers": browsers,
    }
    return embedded(data)


def embedded(data: Any) -> str:
    """JSON that is safe inside a script element: no markup can begin in it, and no NaN."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign, code in (("<", "\\u003c"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(sign, code)
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


def _figure(name: str, title: str, table: Table, said: str = "") -> str:
    """A chart with what it shows in words and its numbers as a table."""
    label = escape(f"Chart: {title}. {said} The numbers are in the table below.")
    return (
        f'<figure class=needs-script data-chart="{escape(name)}"><h3>{escape(title)}</h3>'
        f'<div class=plot role=img aria-label="{label}"></div></figure>{table.html()}'
    )


LEGEND = '<ul class="legend needs-script" aria-label="Methods"></ul>'


def _list(kind: str, items: Iterable[str]) -> str:
    return f"<ul class={kind}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _subtitle(comparison: Comparison) -> str:
    runs = comparison.runs
    done = sum(run.status == "finished" for run in runs)
    many = len(comparison.labels)
    questions = len(comparison.evidence.questions) if comparison.evidence else 0
    about = f"<p>{escape(comparison.cells.about)}</p>" if comparison.cells.about else ""
    return (
        f"<p class=sub>{many} {'method' if many == 1 else 'methods'} · {done} of {len(runs)} runs "
        f"finished · {questions:,} questions · baseline: {escape(comparison.baseline)}</p>{about}"
    )


def _results(comparison: Comparison) -> str:
    parts = []
    if comparison.words:
        parts.append(_list("words", comparison.words))
    if comparison.caveats:
        parts.append(f"<div class=warn><h2>Before you believe it</h2>"
                     f"{_list('caveats', comparison.caveats)}</div>")  # fmt: skip
    found = tables.final_tables(comparison.final, comparison.baseline)
    if found:
        said = " ".join(comparison.words)
        parts += [LEGEND, _figure("final", "Final accuracy with 95 % intervals", found[0], said)]
        parts += [table.html() for table in found[1:]]
    return "".join(parts)


def _curves(comparison: Comparison) -> str:
    found = comparison.curves
    if not found.metrics:
        return "<p class=muted>No run recorded any metric.</p>"
    axes = "".join(f"<option>{escape(axis)}</option>" for axis in found.axes or ("steps",))
    rest = "".join(f"<option>{escape(name)}</option>" for name in found.metrics[found.main :])
    notes = [
        "Lines are means over seeds, at the steps that all finished seeds have and, of "
        "evaluations, at their ends; dotted thin lines are runs that did not finish."
    ]
    if found.every > 1:
        notes.append(f"A training point is the mean of {found.every} steps.")
    if found.left_out:
        notes.append(f"{found.left_out} further metrics are not shown.")
    return (
        f"{LEGEND}<div class='controls needs-script'>"
        f"<label>over<select id=axis>{axes}</select></label>"
        "<label class=row><input type=checkbox id=singles> single seeds</label></div>"
        f"<p class=note>{escape(' '.join(notes))}</p>"
        f"<div class='grid needs-script'>{''.join(map(_curve, found.metrics[: found.main]))}</div>"
        f"<div class=needs-script{'' if rest else ' hidden'}><h3>Another metric</h3>"
        f"<div class=controls><label>metric<select id=more>{rest}</select></label></div>"
        "<figure data-free><div class=plot role=img></div><details></details></figure></div>"
        f"{last_values(comparison).html()}"
    )


def _curve(metric: str) -> str:
    return (
        f'<figure data-metric="{escape(metric)}"><h3>{escape(metric)}</h3>'
        "<div class=plot role=img></div><details></details></figure>"
    )


def last_values(comparison: Comparison) -> Table:
    """Where the main curves end, run by run."""
    metrics = comparison.curves.metrics[: comparison.curves.main]
    rows = []
    for run in comparison.curves.runs:
        ends = []
        for metric in metrics:
            values = run["evaluation"]["y"].get(metric) or run["train"]["y"].get(metric) or [None]
            known = [value for value in values if value is not None]
            ends.append(f"{known[-1]:.3g}" if known else "—")
        rows.append([run["label"], run["seed"], *ends])
    return Table("Where the curves end", ["method", "seed", *metrics], rows, 2)


def _difficulty(comparison: Comparison) -> str:
    figures = []
    for key, scores in comparison.parts.items():
        table = tables.part_table(key, scores, comparison.baseline)
        figures.append(_figure(f"by {key}", table.title, table))
    return LEGEND + "".join(figures) if figures else ""


def _passes(comparison: Comparison) -> str:
    if not comparison.passes:
        return ""
    return LEGEND + _figure("pass", "pass@k", tables.pass_table(comparison.passes))


def _costs(comparison: Comparison) -> str:
    if not comparison.costs:
        return ""
    total = tables.cost_table(comparison.costs, comparison.baseline, comparison.cells.budget)
    return total.html() + tables.stage_table(comparison.costs).html()


def _overlap(comparison: Comparison) -> str:
    found = tables.overlap_tables(comparison.overlap) if comparison.overlap else ()
    return "".join(table.html() for table in found)


def _answers(comparison: Comparison) -> str:
    out = ""
    if comparison.answers:
        out += _browser(
            "answers", "The same question, answered by every method", comparison.answers
        )
    if comparison.training.items:
        out += _browser("training", "Samples from training", comparison.training)
    return f"<div class=needs-script>{out}</div>" if out else ""


def _browser(name: str, title: str, found: Browser) -> str:
    filters = {
        "all": "all",
        "disagree": "methods disagree",
        "none": "no method is right",
        "every": "every method is right",
        "critique": "with a critique",
    }
    options = "".join(f"<option value={key}>{text}</option>" for key, text in filters.items())
    unfold = "yes" if name == "training" else "no"
    return (
        f'<div data-browser="{name}" data-open="{unfold}"><h3>{title}</h3>'
        f"<p class=note>{escape(found.note)}</p>"
        f"<div class=controls><label>show<select class=filter>{options}</select></label>"
        "<label>search<input type=search></label>"
        "<label>question<select class=item></select></label>"
        "<button type=button class=before>← previous</button>"
        "<button type=button class=after>next →</button>"
        "<span class='count muted' aria-live=polite></span></div><div class=place></div></div>"
    )


def _recipes(comparison: Comparison) -> str:
    return "".join(
        tables.diff_table(label, comparison.baseline, rows).html()
        for label, rows in comparison.diffs.items()
    )


def _runs(comparison: Comparison) -> str:
    notices = ""
    if comparison.notices:
        notices = f"<h3>Notices</h3>{_list('notices', comparison.notices)}"
    errors = "".join(
        f"<details><summary>Error of {escape(run.name)}</summary><pre>{escape(run.error[-4000:])}"
        "</pre></details>"
        for run in comparison.runs
        if run.error
    )
    manifest = tables.manifest_table(comparison.runs)
    shown = manifest.html() if manifest.rows else ""
    return tables.run_table(comparison.runs).html() + errors + notices + shown
