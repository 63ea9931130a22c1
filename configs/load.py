"""From a recipe file to a checked recipe, with every mistake of the file told at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from didact.configs.document import Document, Spot, read
from didact.configs.schema import Recipe
from didact.core.errors import RecipeError
from didact.plugins.registry import Registry


def load_recipe(source: str | Path, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe given by path or packaged name.

    Raises:
        RecipeError: one line for each mistake, `file:line: path: what, nearest, what exists`.
    """
    return check(read(source, overrides), registry)


def check(document: Document, registry: Registry) -> Recipe:
    """Validate a document against the schema and the signatures of the parts it names."""
    if "methods" in document.data:
        place = document.place(("methods",))
        raise RecipeError(
            f"{place}: methods: this is a comparison, no recipe: run it with `didact compare`."
        )
    try:
        return Recipe.model_validate(document.data, context={"registry": registry})
    except ValidationError as error:
        raise RecipeError("\n".join(dict.fromkeys(phrased(document, error)))) from None


def phrased(document: Document, error: ValidationError) -> Iterator[str]:
    """One line for each validation error, with the place it came from; a file's in its order."""
    found = [(_written(document, item["loc"]), item) for item in error.errors()]
    places = [document.place(loc) for loc, _ in found]
    order = sorted(range(len(found)), key=lambda at: (places[at].file, places[at].line))
    for at in order:
        loc, item = found[at]
        where = ".".join(map(str, loc)) or "recipe"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing" or message == "Field required":
            message = "is required, and not given"
        yield f"{places[at]}: {where}: {message}"


def _written(document: Document, loc: Spot) -> Spot:
    """A location as the recipe has it. A stage's part and a single item of a list are written
    without their key or position in the schema; the schema's own words are nowhere written."""
    spot: Spot = ()
    for at, key in enumerate(loc):
        beside = loc[at + 1 : at + 2]
        schema = key in ("number", "schedule", "value", "range", "params")
        if (*spot, key) in document.places or not (
            schema or (beside and (*spot, *beside) in document.places)
        ):
            spot = (*spot, key)
    return spot
