"""Which questions methods solve in common, and in what their recipes differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.core.report.evidence import Evidence
from didact.core.report.read import RunRecord

IGNORED = frozenset({"seed", "about"})


@dataclass(frozen=True)
class Overlap:
    """Questions solved by methods; a question is solved if at least half of its answers are right.

    Attributes:
        metric: the answers that were looked at.
        solved: by method, of all questions that every run has it of, bool [Q].
    """

    metric: str
    solved: Mapping[str, NDArray[np.bool_]]

    @property
    def total(self) -> int:
        return len(next(iter(self.solved.values())))

    @property
    def by_none(self) -> int:
        return int((~np.any(list(self.solved.values()), axis=0)).sum())

    @property
    def by_all(self) -> int:
        return int(np.all(list(self.solved.values()), axis=0).sum())

    def count(self, label: str) -> int:
        return int(self.solved[label].sum())

    def only(self, label: str) -> int:
        """Questions that this method alone solves."""
        others = [solved for name, solved in self.solved.items() if name != label]
        return int((self.solved[label] & ~np.any(others, axis=0)).sum()) if others else 0

    def missing(self, label: str, other: str) -> int:
        """Questions that `label` solves and `other` does not."""
        return int((self.solved[label] & ~self.solved[other]).sum())


def overlap(evidence: Evidence) -> Overlap:
    """Solved questions of every method: by the mean of its answers over seeds."""
    metric, known = evidence.main, evidence.known(evidence.main)
    means = {
        label: evidence.values(label, metric)[:, known].mean(axis=0) for label in evidence.labels
    }
    return Overlap(metric, {label: mean >= 0.5 - 1e-9 for label, mean in means.items()})


def recipe_diffs(runs: Sequence[RunRecord], baseline: str) -> dict[str, list[tuple[str, str, str]]]:
    """By method: path, value in the baseline's recipe, value in its own; "—" where absent."""
    recipes: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        if run.recipe:
            recipes.setdefault(run.label, run.recipe)
    if baseline not in recipes:
        return {}
    base = dict(flat(recipes[baseline]))
    out = {}
    for label, recipe in recipes.items():
        if label == baseline:
            continue
        own = dict(flat(recipe))
        paths = [*base, *(path for path in own if path not in base)]
        out[label] = [
            (path, base.get(path, "—"), own.get(path, "—"))
            for path in paths
            if base.get(path) != own.get(path)
        ]
    return out


def flat(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every leaf of a recipe as path and text, without what says nothing about the method."""
    for key, value in recipe.items():
        if key not in IGNORED:
            yield from _leaves(str(key), value)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for name, item in _named(value):
            yield from _leaves(f"{path}[{name}]", item)
    else:
        yield path, _text(value)


def _named(items: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """List items by what they are, so that one that is inserted does not move all others."""
    seen: Counter[str] = Counter()
    for item in items:
        name = _name(item)
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name} {seen[name]}"), item


def _name(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    if "use" in item:
        return str(item["use"])
    verb, inner = next(iter(item.items()), ("", None))
    if isinstance(inner, Mapping) and isinstance(inner.get("source"), Mapping):
        inner = inner["source"]
    part = inner.get("use") if isinstance(inner, Mapping) else inner
    return f"{verb} {part}" if isinstance(part, str) else str(verb)


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
