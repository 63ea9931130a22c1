"""What has become of a comparison's cells so far: done, begun, changed, and what each has spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from didact.configs.comparison import Cell, slug
from didact.configs.document import Place, assign
from didact.configs.load import check
from didact.configs.resolve import as_yaml, resolved
from didact.core.folder import RunFolder
from didact.core.report.read import read_metrics
from didact.plugins.manager import load

State = Literal["new", "begun", "changed", "done"]


def state_of(cell: Cell) -> State:
    """Whether the folder holds this very recipe, from the same model and with the same data, and
    was trained to the end."""
    from didact.configs.launch import changed_data, data_of, start_of

    folder, registry = cell.folder, load()
    if not folder.recipe.exists():
        return "new"
    recipe = check(cell.document, registry)
    if folder.recipe.read_text(encoding="utf-8") != as_yaml(resolved(recipe)):
        return "changed"
    began = _began(folder)
    if began.get("start") not in (None, start_of(recipe, registry)):
        return "changed"
    if changed_data(began, data_of(recipe)):
        return "changed"
    return "done" if folder.final.exists() else "begun"


def _began(folder: RunFolder) -> Mapping[str, Any]:
    """What the run began with; nothing if its manifest is missing or cut off."""
    try:
        return dict(json.loads(folder.manifest.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def fill_match(cell: Cell, said: list[str]) -> bool:
    """Write the budget that a cell takes from another one's run into its recipe.

    Returns:
        False if that run is not finished, or did not say what it spent.
    """
    if cell.match is None:
        return True
    other = RunFolder(cell.folder.path.parent.parent / slug(cell.match.of) / str(cell.seed))
    amount = spent(other, cell.match.axis, said) if other.final.exists() else None
    if amount is None:
        return False
    steps = cell.match.axis == "steps"
    path = "steps" if steps else f"budget.{cell.match.axis}"
    assign(cell.document, path, int(amount) if steps else amount, Place("match", 0))
    return True


def spent(folder: RunFolder, axis: str, said: list[str]) -> float | None:
    """What a run has used of a budget by its last readable step; None if it never said."""
    train, _ = read_metrics(folder.path, said)
    known = [row[f"spent/{axis}"] for row in train.values() if f"spent/{axis}" in row]
    return float(known[-1]) if known else None


def put_aside(folder: Path) -> None:
    """Rename a run whose recipe has changed to `SEED.replaced`, `SEED.replaced-2`, ..."""
    aside, at = folder.with_name(f"{folder.name}.replaced"), 1
    while aside.exists():
        at += 1
        aside = folder.with_name(f"{folder.name}.replaced-{at}")
    folder.rename(aside)
