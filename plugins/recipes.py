"""Recipes that plug-ins bring: the YAML files in a plug-in's package folder, found by name.

Finding them imports no plug-in, so that `didact recipe show` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

GROUP = "didact"


def recipe_files(group: str = GROUP) -> Mapping[str, Path]:
    """Every recipe of every installed plug-in, by `plug-in/name`.

    A plug-in that is a single module has no folder of its own, and so no recipes.
    """
    found: dict[str, Path] = {}
    for point in entry_points(group=group):
        try:
            spec = find_spec(point.module)
        except (ImportError, ValueError):
            continue  # loading the plug-in says so, with its reason
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).glob("*.yaml")):
                found.setdefault(f"{point.name}/{path.stem}", path)
    return found
