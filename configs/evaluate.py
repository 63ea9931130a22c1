"""From a checked recipe to figures: a model evaluated by what its `evaluation:` says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from didact.configs.assemble import assemble
from didact.configs.console import Console
from didact.configs.document import read
from didact.configs.engines import open_recipe
from didact.configs.launch import policy_of, tell_left_out
from didact.configs.load import check
from didact.configs.schema import Recipe
from didact.core.errors import RecipeError, RunError
from didact.core.evaluate import base_bins, binned, write
from didact.plugins.manager import load


def evaluate_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    checkpoint: Path | None = None,
    out: Path | None = None,
) -> dict[str, float]:
    """Evaluate a model by a recipe's `evaluation:`; prints a table and returns the metrics."""
    registry = load()
    document = read(source, overrides)
    recipe = check(document, registry)
    if recipe.evaluation is None:
        raise RecipeError(f"{source}: has no 'evaluation:' to run.")
    console = Console()
    parts = assemble(recipe, registry, document)
    policy = policy_of(recipe, checkpoint, registry, console)
    apart = checkpoint is not None and "ref" in parts.reads
    start = policy_of(recipe, None, registry, console) if apart else policy
    opened = open_recipe(recipe, parts, registry, policy, start)
    assert opened.evaluation is not None
    tell_left_out("evaluation.task", opened.evaluation.task, console)
    bins = _bins_of(recipe, checkpoint, console)
    with console.progress("evaluating", len(opened.evaluation.task)) as advance:
        answered, metrics = opened.evaluation(opened.run, bins=bins, progress=advance)
    if recipe.evaluation.bins and checkpoint is None:
        answered = binned(answered, base_bins(answered))
        metrics |= opened.evaluation.summary(answered)
    console.table(metrics)
    if out is not None:
        try:
            write(answered, out)
        except OSError as error:
            raise RunError(f"{out}: cannot be written: {error.strerror}.") from None
    return metrics


def _bins_of(recipe: Recipe, checkpoint: Path | None, console: Console) -> dict[str, str] | None:
    """Base difficulties, as the run that the checkpoint is of measured them on its first model."""
    if checkpoint is None or recipe.evaluation is None or not recipe.evaluation.bins:
        return None
    file = checkpoint.parent / "bins.json"
    if not file.exists():
        console.say(f"note: there is no {file}, so nothing is broken down by base difficulty")
        return None
    bins: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return bins
