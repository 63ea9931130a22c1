"""Reads a finished, failed or unfinished run's folder; what is missing or cut off becomes a notice.

Reading goes on wherever something can still be shown: a metric line cut off by a crash costs that
line, not the report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from didact.core.errors import DataError
from didact.core.folder import RunFolder

Row = Mapping[str, Any]
Status = Literal["finished", "failed", "unfinished", "missing"]
REQUIRED = frozenset({"id", "question", "answer", "greedy", "successes", "answers"})


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says.

    Attributes:
        label: the method it is a run of.
        seed: as text, since a folder may name it.
        train: metric rows of training steps, by step.
        evaluations: metric rows of evaluations, by step.
        answers: rows of the final evaluation, None if there is none that can be used.
        evaluated_at: the step of that evaluation.
        error: text of `error.txt`.
        notices: what was missing or cut off, in plain words.
    """

    path: Path
    label: str
    seed: str
    status: Status
    recipe: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[int, Row] = field(default_factory=dict)
    evaluations: Mapping[int, Row] = field(default_factory=dict)
    answers: tuple[Row, ...] | None = None
    evaluated_at: int | None = None
    error: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def reason(self) -> str:
        """The last line of the error, where Python says what it was; without the module's path."""
        last = (self.error or "").splitlines()[-1:] or ["no reason recorded"]
        return _MODULE.sub("", last[0])[:300]


def read_run(path: Path, label: str, seed: str) -> RunRecord:
    """Read one run; nothing here raises for what a crash can leave behind.

    Raises:
        DataError: a file has lines that no run writes, or the recipe is not YAML.
    """
    said: list[str] = []
    error = _error(path)
    if not RunFolder(path).recipe.exists():
        why = "failed before it started" if error else "there is no run in this folder"
        status: Status = "failed" if error else "missing"
        return RunRecord(path, label, seed, status, error=error, notices=(f"{path}: {why}.",))
    recipe = read_recipe(path)
    train, evaluations = read_metrics(path, said)
    at, answers = _answers(path, said)
    finished = _finished(path, recipe, at, error)
    if error and finished:
        said.append("error.txt is there, but so is the final model: taken as finished.")
    if train and finished:
        _gaps(train, said)
        if at is not None and at < max(train):
            said.append(f"the newest evaluation is of step {at}, not of the last, {max(train)}.")
            answers = None
    if finished and answers is None and recipe.get("evaluation"):
        said.append("no usable final evaluation: left out of all tables of accuracy.")
    return RunRecord(
        path=path,
        label=label,
        seed=seed,
        status="finished" if finished else "failed" if error else "unfinished",
        recipe=recipe,
        manifest=_manifest(path, said),
        train=train,
        evaluations=evaluations,
        answers=answers if finished else None,
        evaluated_at=at,
        error=error,
        notices=tuple(f"{label}, seed {seed}: {text}" for text in said),
    )


def read_recipe(path: Path) -> Mapping[str, Any]:
    """The resolved recipe of a run's folder."""
    file = RunFolder(path).recipe
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{file}: is not YAML: {error}") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{file}: is not a recipe: expected a mapping.")
    return found


def read_seed(path: Path) -> str:
    """The seed of a run: from its manifest, else its recipe."""
    found = _manifest(path, []).get("seed", read_recipe(path).get("seed", 0))
    return str(found)


def _error(path: Path) -> str | None:
    file = path / "error.txt"
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else None


def _manifest(path: Path, said: list[str]) -> Mapping[str, Any]:
    file = RunFolder(path).manifest
    if not file.exists():
        said.append("manifest.json is missing.")
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        said.append("manifest.json is cut off.")
        return {}
    return found if isinstance(found, Mapping) else {}


def _finished(
    path: Path, recipe: Mapping[str, Any], evaluated_at: int | None, error: str | None
) -> bool:
    """The final model is there, or (someone deleted it) the evaluation at the last step is."""
    if RunFolder(path).final.exists():
        return True
    return error is None and evaluated_at is not None and evaluated_at == recipe.get("steps")


def read_lines(file: Path, said: list[str]) -> Iterator[Row]:
    """JSON objects of a file, line by line; lines that are cut off are counted and left out.

    Raises:
        DataError: a line is JSON but not an object: this is another kind of file.
    """
    broken = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                broken += [number] if line.strip() else []
                continue
            if not isinstance(row, Mapping):
                raise DataError(f"{file}:{number}: expected an object, got {type(row).__name__}.")
            yield row
    if broken:
        where = ", ".join(map(str, broken[:5])) + (", …" if len(broken) > 5 else "")
        said.append(f"{file.name}: {len(broken)} unreadable or cut off (line {where}).")


def read_metrics(path: Path, said: list[str]) -> tuple[dict[int, Row], dict[int, Row]]:
    """Training steps and evaluations of a run, by step; what is missing or cut off is said."""
    file = RunFolder(path).metrics
    rows: dict[str, dict[int, Row]] = {"train": {}, "evaluation": {}}
    if not file.exists():
        said.append("metrics.jsonl is missing: no curves and no costs of this run.")
        return {}, {}
    strange = 0
    for row in read_lines(file, said):
        kind, step = row.get("kind"), row.get("step")
        if kind in rows and isinstance(step, int):
            rows[kind][step] = row
        else:
            strange += 1
    if strange:
        said.append(f"metrics.jsonl: {strange} lines without a step or of an unknown kind.")
    if not rows["train"]:
        said.append("metrics.jsonl holds no training step.")
    return dict(sorted(rows["train"].items())), dict(sorted(rows["evaluation"].items()))


def _gaps(train: Mapping[int, Row], said: list[str]) -> None:
    last = max(train)
    if len(train) < last:
        said.append(
            f"metrics.jsonl: {last - len(train)} of {last} steps are missing; "
            "its totals (tokens, seconds, demonstrations) are too low."
        )


def _answers(path: Path, said: list[str]) -> tuple[int | None, tuple[Row, ...] | None]:
    """The newest evaluation's step and rows; no rows if it is cut off or lacks columns."""
    names = sorted((path / "evaluation").glob("step-*.jsonl"))
    steps = [(int(found[1]), file) for file in names if (found := _STEP.search(file.name))]
    if not steps:
        return None, None
    step, file = max(steps)
    problems: list[str] = []
    rows = tuple(read_lines(file, problems))
    lacking = {key for row in rows for key in REQUIRED - row.keys()}
    if lacking:
        problems.append(f"{file.name}: rows without {', '.join(sorted(lacking))}.")
    if not rows:
        problems.append(f"{file.name} is empty.")
    said += [f"evaluation/{text}" for text in problems]
    return step, None if problems else rows


_MODULE = re.compile(r"^(\w+\.)+(?=[A-Z]\w*(:|$))")
_STEP = re.compile(r"step-(\d+)\.jsonl$")
