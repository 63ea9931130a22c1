"""Which runs are compared: cells of a comparison, found in a comparison's folder or given as runs.

A comparison's folder holds `comparison.json` and the runs as `cells/<folder>/<seed>/`. The file:

    {"baseline": "GRPO",                   # required: one of the labels
     "labels": {"GRPO": "grpo", …},        # required: methods in order, and their folders; a list
                                           # if the folders are called like the methods
     "title": "…", "about": "…",           # optional
     "axis": "steps",                      # optional: the budget that all were given equally
     "seeds": [0, 1, 2],                   # optional: cells without a run are shown as missing
     "matches": {"SFT": ["demonstrations", "GRPO"]},    # optional: who was to spend as much as whom
     "outdated": ["SFT, seed 0"],          # optional: runs of a recipe that has changed since
     "at_once": 2}                         # optional: most runs that shared the machine
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from didact.core.errors import DataError, unknown
from didact.core.report.read import RunRecord, read_recipe, read_run, read_seed

_SEED = re.compile(r"[-_. ]*(seed|s)?[-_. ]*\d+$")

AXES = ("steps", "generated tokens", "trained tokens", "seconds", "demonstrations")


@dataclass(frozen=True)
class Cell:
    """One method with one seed, and the run's folder."""

    label: str
    seed: str
    path: Path


@dataclass(frozen=True)
class Cells:
    """The runs of a comparison.

    Attributes:
        labels: methods in order; the first is the baseline unless another is named.
        about: what is compared, and why.
        budget: the axis that was meant to be equal, None if nothing was said.
        matches: by label, the axis and the method of which it was to spend as much.
        outdated: runs whose recipe the comparison's file has changed since.
        at_once: most runs that were going on at once.
    """

    cells: tuple[Cell, ...]
    labels: tuple[str, ...]
    baseline: str
    title: str = "Comparison"
    about: str = ""
    budget: str | None = None
    matches: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    outdated: tuple[str, ...] = ()
    at_once: int = 1

    def read(self) -> list[RunRecord]:
        """Every cell's record, in order of labels and seeds."""
        records = [read_run(cell.path, cell.label, cell.seed) for cell in self.cells]
        place = {label: at for at, label in enumerate(self.labels)}
        return sorted(records, key=lambda run: (place[run.label], _natural(run.seed)))

    @staticmethod
    def of_comparison(folder: Path) -> Cells:
        """The cells of a comparison's folder."""
        said = _comparison(folder)
        labels = said["labels"]
        places = labels if isinstance(labels, Mapping) else {label: label for label in labels}
        found = []
        for label, name in places.items():
            runs = folder / "cells" / name
            # A folder that is no seed is a run that was put aside.
            there = sorted(path.name for path in runs.glob("*") if path.name.isdigit())
            seeds = [str(seed) for seed in said.get("seeds", there)]
            found += [Cell(label, seed, runs / seed) for seed in seeds]
        axis = str(said["axis"]).replace("_", " ") if said.get("axis") else None
        if axis is not None and axis not in AXES:
            raise DataError(f"{folder / 'comparison.json'}: {unknown('budget axis', axis, AXES)}")
        title = said.get("title") or folder.resolve().name
        about = said.get("about", "")
        matches = {k: (a.replace("_", " "), of) for k, (a, of) in said.get("matches", {}).items()}
        return Cells(
            tuple(found),
            tuple(places),
            said["baseline"],
            title,
            about,
            budget=axis,
            matches=matches,
            outdated=tuple(said.get("outdated", ())),
            at_once=said.get("at_once", 1),
        )

    @staticmethod
    def of_runs(paths: Sequence[Path]) -> Cells:
        """The cells of single runs: the same recipe with other seeds is the same method."""
        groups: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            recipe = {k: v for k, v in read_recipe(path).items() if k != "seed"}
            groups[json.dumps(recipe, sort_keys=True, default=str)].append(path.resolve())
        methods = _labelled([part for group in groups.values() for part in _apart(group)])
        cells = [
            Cell(label, read_seed(path), path) for label, runs in methods.items() for path in runs
        ]
        labels = tuple(methods)
        return Cells(tuple(cells), labels, labels[0], " · ".join(labels[:4]))

    def with_choices(self, baseline: str | None, title: str | None = None) -> Cells:
        """The same cells, compared with another method or under another title.

        Raises:
            DataError: there is no such method.
        """
        chosen = baseline or self.baseline
        if chosen not in self.labels:
            raise DataError(f"report: {unknown('method', chosen, self.labels)}")
        return replace(self, baseline=chosen, title=title or self.title)


def find_cells(paths: Iterable[Path]) -> Cells:
    """Cells of run folders and comparison folders, in any mixture.

    Raises:
        DataError: a path is neither, or two of them use one label.
    """
    runs: list[Path] = []
    parts: list[Cells] = []
    for path in paths:
        if (path / "comparison.json").exists():
            parts.append(Cells.of_comparison(path))
        elif (path / "recipe.yaml").exists():
            runs.append(path)
        else:
            raise DataError(
                f"{path}: neither a run (recipe.yaml) nor a comparison (comparison.json)."
            )
    if runs:
        parts.append(Cells.of_runs(runs))
    if not parts:
        raise DataError("report: give at least one run or comparison folder.")
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: Sequence[Cells]) -> Cells:
    cells = tuple(cell for part in parts for cell in part.cells)
    places = Counter(cell.path.resolve() for cell in cells)
    again = [str(place) for place, count in places.items() if count > 1]
    if again:
        raise DataError(f"report: a run was given twice: {again[0]}.")
    labels = [label for part in parts for label in part.labels]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise DataError(
            f"report: two comparisons have a method '{twice[0]}'; report them one by one."
        )
    axes = {part.budget for part in parts}
    budget = axes.pop() if len(axes) == 1 else None
    title = " · ".join(part.title for part in parts)
    about = " ".join(part.about for part in parts if part.about)
    matches = {label: match for part in parts for label, match in part.matches.items()}
    outdated = tuple(name for part in parts for name in part.outdated)
    return Cells(
        cells,
        tuple(labels),
        parts[0].baseline,
        title,
        about,
        budget=budget,
        matches=matches,
        outdated=outdated,
        at_once=max(part.at_once for part in parts),
    )


def _apart(runs: Sequence[Path]) -> list[list[Path]]:
    """Runs of one recipe: one method, unless a seed occurs twice; then each run is its own."""
    seeds = {read_seed(path) for path in runs}
    return [list(runs)] if len(seeds) == len(runs) else [[path] for path in runs]


def _labelled(groups: Sequence[Sequence[Path]]) -> dict[str, Sequence[Path]]:
    """Groups by a short label that no other group has."""
    for name in (_short, _with_parent, lambda runs: str(runs[0])):
        labels = [name(runs) for runs in groups]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, groups, strict=True))
    raise DataError(f"report: a run was given twice: {', '.join(str(g[0]) for g in groups)}.")


def _short(runs: Sequence[Path]) -> str:
    """What the folders' names begin with; the parent's name where they are seeds alone."""
    if all(path.name.isdigit() for path in runs):
        return runs[0].parent.name
    if len(runs) == 1:
        return runs[0].name
    return _SEED.sub("", runs[0].name) or runs[0].name


def _with_parent(runs: Sequence[Path]) -> str:
    return f"{runs[0].parent.name}/{runs[0].name}"


def _comparison(folder: Path) -> Mapping[str, Any]:
    file = folder / "comparison.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: is not JSON: {error}") from error
    lacking = [key for key in ("baseline", "labels") if key not in said]
    if lacking:
        raise DataError(f"{file}: lacks '{lacking[0]}'.")
    if said["baseline"] not in said["labels"]:
        raise DataError(f"{file}: {unknown('method', said['baseline'], said['labels'])}")
    return dict(said)


def _natural(seed: str) -> tuple[int, str]:
    return (int(seed), "") if seed.isdigit() else (1 << 60, seed)
