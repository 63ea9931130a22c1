"""Whether runs can be compared: one base model, the same questions, the same data.

Runs that cannot be compared are refused here, with the difference named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from didact.core.errors import DataError
from didact.core.report.read import Row, RunRecord


def same_base(runs: Sequence[RunRecord]) -> None:
    """Refuse runs that start from different models.

    Raises:
        DataError: names the two runs and what differs.
    """
    starts: dict[Any, RunRecord] = {}
    for run in runs:
        start = run.manifest.get("start")
        other = starts.setdefault(run.manifest.get("seed"), run) if start else run
        if other.manifest.get("start") != start:
            raise DataError(
                f"these runs start from different models and cannot be compared: '{other.name}' "
                f"from {_shown(other.manifest.get('start'))}, '{run.name}' from {_shown(start)}."
            )
    known = [run for run in runs if run.recipe]
    for run in known[1:]:
        for what in ("base", "policy"):
            here, there = _base(known[0], what), _base(run, what)
            if here != there:
                raise DataError(
                    f"these runs start from different models and cannot be compared: {what} of "
                    f"'{known[0].name}' is {_shown(here)}, of '{run.name}' {_shown(there)}."
                )


def _base(run: RunRecord, what: str) -> Any:
    if what == "base":
        return run.recipe.get("base")
    return (run.recipe.get("models") or {}).get("policy")


def _shown(value: Any) -> str:
    return "not named" if value is None else json.dumps(value, sort_keys=True, default=str)


def keyed(run: RunRecord) -> dict[str, Row]:
    """Rows by id; an id that occurs again gets its number."""
    seen: Counter[str] = Counter()
    out = {}
    for row in run.answers or ():
        name = str(row["id"])
        seen[name] += 1
        out[name if seen[name] == 1 else f"{name}#{seen[name]}"] = row
    return out


def same_questions(one: RunRecord, first: Mapping[str, Row], other: RunRecord) -> dict[str, Row]:
    """The other run's rows in the order of the first's.

    Raises:
        DataError: they were asked different questions.
    """
    second = keyed(other)
    only = (
        [key for key in first if key not in second],
        [key for key in second if key not in first],
    )
    if any(only):
        said = [
            f"{len(keys)} only in '{run.name}' ({', '.join(keys[:3])}{', …' if keys[3:] else ''})"
            for keys, run in zip(only, (one, other), strict=True)
            if keys
        ]
        raise DataError(
            f"these runs were evaluated on different questions and cannot be compared: "
            f"{'; '.join(said)}."
        )
    for key, row in first.items():
        for what in ("question", "answer"):
            if row[what] != second[key][what]:
                raise DataError(
                    f"these runs were evaluated on different questions and cannot be compared: the "
                    f"{what} '{key}' is {_cut(row[what])} in '{one.name}' and "
                    f"{_cut(second[key][what])} in '{other.name}'."
                )
    return {key: second[key] for key in first}


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def unlike_bins(runs: Sequence[RunRecord]) -> list[str]:
    """Runs of one seed measure base difficulty with the same model and the same random numbers; a
    sentence for each run that found other bins than the first of its seed."""
    first: dict[str, tuple[RunRecord, Mapping[str, Any]]] = {}
    out = []
    for run in runs:
        bins = {key: row.get("bin") for key, row in keyed(run).items()}
        if not any(bins.values()):
            continue
        other, there = first.setdefault(run.seed, (run, bins))
        unlike = sum(bins[key] != there.get(key) for key in bins)
        if unlike:
            out.append(
                f"{run.name} measured other base difficulties than {other.name} on {unlike} of "
                f"{len(bins)} questions, though a seed has one base model: its evaluation before "
                "the first step had other settings, or ran on other software or hardware."
            )
    return out


def unlike_data(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence for each run that read another file than the first that names it alike."""
    first: dict[tuple[str, str], tuple[RunRecord, str]] = {}
    out = []
    for run in runs:
        for name, found in (run.manifest.get("data") or {}).items():
            root = name.partition(".")[0]
            named = run.recipe.get(root) or {}
            task = named.get("task") if root == "evaluation" else named
            other, there = first.setdefault((name, _shown(task)), (run, found))
            if there != found:
                out.append(
                    f"{run.name} read another file than {other.name}, though their recipes name "
                    f"the same as {name}: it was changed between the runs."
                )
    return out
