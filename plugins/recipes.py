"""Recipes that plug-ins bring: the YAML files in a plug-in's package folder, found by name.

Finding them imports no plug-in, so that `didact recipe show` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from didact.core.errors import RecipeError

GROUP = "didact"


def recipe_files(group: str = GROUP) -> Mapping[str, Path]:
    """Every recipe of every installed plug-in, by `plug-in/name`.

    A plug-in that is a single module has no folder of its own, and so no recipes.
    """
    found: dict[str, Path] = {}
    for point in entry_points(group=group):
        try:
            spec = find_spec(point.module)
        except (ImportError, ValueError, AttributeError):  # the last for a name of no module
            continue  # loading the plug-in says so, with its reason
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).glob("*.yaml")):
                found.setdefault(f"{point.name}/{path.stem}", path)
    return found


def recipe_named(name: str, own: Path) -> Path | None:
    """The recipe of a name, or of `plug-in/name`, among those in `own` and those of plug-ins.

    Raises:
        RecipeError: two have that name.
    """
    every = {f"didact/{path.stem}": path for path in own.glob("*.yaml")} | dict(recipe_files())
    found = [full for full in every if name in (full, full.partition("/")[2])]
    if len(found) > 1:
        raise RecipeError(f"recipe '{name}' is ambiguous; say {' or '.join(found)}.")
    return every[found[0]] if found else None
