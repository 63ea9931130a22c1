"""What a comparison file may say, and the cells it amounts to: methods x seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from didact.configs.document import PACKAGED, Document, Place, assign, packaged, parse, read
from didact.configs.load import check, phrased
from didact.core.errors import RecipeError, unknown
from didact.core.folder import RunFolder
from didact.plugins.manager import load
from didact.plugins.strict import Strict

Axis = Literal["steps", "generated_tokens", "trained_tokens", "seconds", "demonstrations"]


class Match(Strict):
    """Spend as much as another method did, seed by seed: `{axis: demonstrations, of: ReLIFT}`."""

    axis: Axis
    of: str


class Method(Strict):
    """One method of a comparison.

    Attributes:
        recipe: a file or a packaged name.
        set: changes by dotted path.
        match: a budget taken from another method's run; that one runs first.
        gpus: GPUs of each of its cells; the comparison's unless given.
    """

    recipe: str
    set: dict[str, Any] = {}
    match: Match | None = None
    gpus: int | None = Field(default=None, ge=0)


class Comparison(Strict):
    """A comparison file.

    Attributes:
        methods: by label, in the order of the report; a bare name is a recipe.
        baseline: the label that the others are compared with; the first unless given.
        seeds: every method runs once with each.
        set: changes to every method's recipe: the shared model, data, evaluation, budget.
        axis: the budget axis that the report's curves and checks are about.
        budget: every method's limit on that axis.
        gpus: GPUs that each cell has to itself, on a machine that has any; 0: every cell sees all.
        cpus: cores that each cell has on a machine without GPUs, where as many cells run at once
            as there are cores for; None: all of them, so one cell after another. Small models are
            slower on two cores than two of them on a core each.
    """

    title: str = ""
    about: str = ""
    methods: dict[str, Method]
    baseline: str | None = None
    seeds: list[int] = Field(default=[0], min_length=1)
    set: dict[str, Any] = {}
    axis: Axis = "steps"
    budget: float | None = None
    gpus: int = Field(default=1, ge=0)
    cpus: int | None = Field(default=None, ge=1)

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError(f"seeds must differ, they are the repetitions: {value}")
        return value

    @field_validator("methods", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"recipe": v} if isinstance(v, str) else v for k, v in value.items()}


@dataclass(frozen=True)
class Cell:
    """One method with one seed: a recipe and the folder it runs in."""

    label: str
    seed: int
    document: Document
    folder: RunFolder
    match: Match | None
    gpus: int = 1

    @property
    def name(self) -> str:
        return f"{self.label} / seed {self.seed}"


def load_comparison(source: str) -> Comparison:
    """Read and check a comparison file, given by path or by the name of a packaged one.

    Raises:
        RecipeError: one line for each mistake.
    """
    file = Path(source)
    if not file.is_file():
        file = PACKAGED / f"{source}.compare.yaml"
    if not file.is_file() and source in packaged():
        raise RecipeError(f"'{source}' is a recipe: run it with `didact train {source}`.")
    if not file.is_file():
        known = [p.name.removesuffix(".compare.yaml") for p in PACKAGED.glob("*.compare.yaml")]
        raise RecipeError(unknown("comparison", source, known))
    document = parse(file)
    if "methods" not in document.data and not {"experience", "extends"}.isdisjoint(document.data):
        raise RecipeError(
            f"{file.name}: this is a recipe, no comparison: run it with `didact train`."
        )
    try:
        comparison = Comparison.model_validate(document.data)
    except ValidationError as error:
        raise RecipeError("\n".join(phrased(document, error))) from None
    sets = {f"methods.{label}.set": method.set for label, method in comparison.methods.items()}
    for where, given in {"set": comparison.set, **sets}.items():
        if "seed" in given:
            raise RecipeError(
                f"{file.name}: {where}: every method runs with the comparison's 'seeds'; "
                "leave 'seed' out."
            )
    slugs: dict[str, str] = {}
    for label in comparison.methods:
        other = slugs.setdefault(slug(label), label)
        if other != label:
            raise RecipeError(
                f"{file.name}: methods '{other}' and '{label}' would share the folder "
                f"'{slug(label)}'; rename one."
            )
    for label, method in comparison.methods.items():
        other_method = comparison.methods.get(method.match.of) if method.match else None
        if method.match and other_method and other_method.match:
            raise RecipeError(
                f"{file.name}: methods.{label}: matches '{method.match.of}', which itself matches "
                f"another; match one that runs by itself."
            )
    for label in filter(None, [comparison.baseline, *_matched(comparison)]):
        if label not in comparison.methods:
            raise RecipeError(f"{file.name}: {unknown('method', label, comparison.methods)}")
    return comparison


def _matched(comparison: Comparison) -> Iterator[str]:
    for method in comparison.methods.values():
        if method.match is not None:
            yield method.match.of


def cells(comparison: Comparison, out: Path, only: Sequence[str] = ()) -> list[Cell]:
    """Every cell of a comparison, its recipe checked; those that others match come first.

    Raises:
        RecipeError: a recipe is wrong, or `only` names no method.
    """
    registry = load()
    for label in only:
        if label not in comparison.methods:
            raise RecipeError(unknown("method", label, comparison.methods))
    made = []
    for label, method in comparison.methods.items():
        if only and label not in only:
            continue
        for seed in comparison.seeds:
            document = read(method.recipe)
            limit = (
                {}
                if comparison.budget is None
                else {f"budget.{comparison.axis}": comparison.budget}
            )
            if comparison.axis == "steps" and comparison.budget is not None:
                limit = {"steps": int(comparison.budget)}
            for path, value in {**comparison.set, **limit, **method.set, "seed": seed}.items():
                assign(document, path, value, Place(f"methods.{label}", 0))
            check(document, registry)
            folder = RunFolder(out / "cells" / slug(label) / str(seed))
            gpus = comparison.gpus if method.gpus is None else method.gpus
            made.append(Cell(label, seed, document, folder, method.match, gpus))
    return sorted(made, key=lambda cell: cell.match is not None)


def slug(label: str) -> str:
    """A label as a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "method"
