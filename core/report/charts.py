"""Data of the charts with intervals, for the page's script and for PNG alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from didact.core.report.comparison import Comparison
from didact.core.report.scores import Score


def charts(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Data of all of them, by name: final, by each part, pass@k."""
    final = [score for score in comparison.final if score.benchmark == "all"]
    out = {"final": _points("points", "", final, lambda score: score.metric)}
    for key, scores in comparison.parts.items():
        name = "base-model difficulty" if key == "bin" else key
        out[f"by {key}"] = _points("points", name, scores, lambda s: s.part.partition("=")[2])
    if comparison.passes:
        out["pass"] = _points("lines", "k", comparison.passes, lambda s: int(s.metric[5:]))
    return out


def _points(
    kind: str, x: str, scores: Sequence[Score], category: Callable[[Score], str | int]
) -> dict[str, Any]:
    points = [
        {
            "label": score.label,
            "category": category(score),
            "y": round(100 * score.own.mean, 2),
            "low": round(100 * score.own.low, 2),
            "high": round(100 * score.own.high, 2),
        }
        for score in scores
    ]
    categories = list(dict.fromkeys(point["category"] for point in points))
    return {"kind": kind, "x": x, "y": "%", "points": points, "categories": categories}
