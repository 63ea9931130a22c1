"""The report's figures as PNG, for papers and slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.core.report.comparison import Comparison
from didact.core.report.style import looks

LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (10, 3))}
SHAPES = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "star": "*",
    "hexagon": "h",
}
OFFSETS = 0.55  # width, in categories, over which methods stand beside each other


def write_images(
    comparison: Comparison, charts: Mapping[str, Mapping[str, Any]], folder: Path
) -> list[Path]:
    """One PNG per chart with intervals, and one of the first learning curves."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, chart in charts.items():
        if chart["points"]:
            out.append(_chart(comparison.labels, name, chart, folder))
    metrics = comparison.curves.metrics[: min(comparison.curves.main, 6)]
    if metrics:
        out.append(_curves(comparison, metrics, folder / "curves.png"))
    return out


def _new(columns: int, rows: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _chart(labels: Sequence[str], name: str, chart: Mapping[str, Any], folder: Path) -> Path:
    figure, (axes,) = _new(1, 1, (7, 4))
    lines = chart["kind"] == "lines"
    shown = [label for label in labels if any(p["label"] == label for p in chart["points"])]
    for at, label in enumerate(shown):
        points = [point for point in chart["points"] if point["label"] == label]
        color, dash, marker = looks(labels.index(label))
        shift = OFFSETS * (at / (len(shown) - 1) - 0.5) if len(shown) > 1 else 0.0
        x = [p["category"] if lines else chart["categories"].index(p["category"]) + shift
             for p in points]  # fmt: skip
        y = [p["y"] for p in points]
        spans = [[p["y"] - p["low"] for p in points], [p["high"] - p["y"] for p in points]]
        axes.errorbar(
            x,
            y,
            yerr=spans,
            label=label,
            color=color,
            marker=SHAPES[marker],
            linestyle=LINES[dash] if lines else "none",
            capsize=2,
        )
    if lines:
        axes.set_xscale("log", base=2)
        axes.set_xticks(chart["categories"], [str(k) for k in chart["categories"]])
    else:
        axes.set_xticks(range(len(chart["categories"])), chart["categories"])
        axes.set_ylim(bottom=0)
    axes.set_xlabel(chart["x"])
    axes.set_ylabel("accuracy, % (95 % interval)")
    return _saved(figure, axes, folder / f"{name.replace(' ', '-').replace('/', '-')}.png")


def _curves(comparison: Comparison, metrics: Sequence[str], file: Path) -> Path:
    rows = (len(metrics) + 2) // 3
    figure, places = _new(min(3, len(metrics)), rows, (10, 3 * rows))
    for axes, metric in zip(places, metrics, strict=False):
        named: set[str] = set()
        for run in comparison.curves.runs:
            part = run["evaluation"] if metric in run["evaluation"]["y"] else run["train"]
            if metric not in part["y"]:
                continue
            color, dash, _ = looks(comparison.labels.index(run["label"]))
            kept = [
                (x, y)
                for x, y in zip(part["x"]["steps"], part["y"][metric], strict=True)
                if y is not None
            ]
            label = None if run["label"] in named else run["label"]
            named.add(run["label"])
            axes.plot(
                *zip(*kept, strict=True), color=color, linestyle=LINES[dash], lw=1.2, label=label
            )
        axes.set_title(metric, fontsize=9)
        axes.set_xlabel("steps", fontsize=8)
        axes.grid(alpha=0.3)
    for axes in places[len(metrics) :]:
        axes.set_visible(False)
    return _saved(figure, places[0], file)


def _saved(figure: Any, axes: Any, file: Path) -> Path:
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(file, dpi=130)
    return file
