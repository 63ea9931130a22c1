"""Looking at recipes and parts: checked, expanded, compared, described."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.configs.schema import Recipe
from didact.core.errors import RecipeError, unknown
from didact.plugins.manager import load
from didact.plugins.registry import HOOKS, Entry, Registry
from didact.plugins.signature import hints_of, shown


def checked(
    source: str | Path, overrides: Sequence[str] = (), registry: Registry | None = None
) -> Recipe:
    """A recipe that passed every check that needs no model.

    Raises:
        RecipeError: all mistakes, one a line.
    """
    registry = registry or load()
    document = read(source, overrides)
    recipe = check(document, registry)
    assemble(recipe, registry, document)
    return recipe


def resolved(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, every default filled in."""
    data: dict[str, Any] = recipe.model_dump(mode="json")
    return {key: value for key, value in data.items() if value not in (None, {}, "")}


def as_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, in the order it has."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)


def expanded(source: str | Path, overrides: Sequence[str] = ()) -> str:
    """A recipe with everything inherited and every default filled in, as YAML."""
    return as_yaml(resolved(checked(source, overrides)))


def differences(first: str | Path, second: str | Path) -> list[str]:
    """`path: a -> b` for every place where two resolved recipes differ, `about` aside."""
    registry = load()
    one, two = (dict(_flat(resolved(checked(s, (), registry)))) for s in (first, second))
    lines = []
    for path in sorted({**one, **two}):
        if one.get(path) != two.get(path) and path != "about":
            lines.append(f"{path}: {one.get(path, 'absent')} -> {two.get(path, 'absent')}")
    return lines


def _flat(data: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _flat(value, f"{at}.{key}" if at else str(key))
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            yield from _flat(value, f"{at}.{index}")
    else:
        yield at, data


def described(name: str) -> str:
    """A part's kind, plug-in, documentation and settings. `name`, `package/name` or `kind:name`."""
    registry = load()
    kind, _, part = name.rpartition(":")
    owner, _, bare = part.rpartition("/")
    if kind and kind not in HOOKS:
        raise RecipeError(unknown("kind of part", kind, HOOKS))
    entries = [e for e in registry.entries() if kind in ("", e.kind)]
    entries = [e for e in entries if owner in ("", e.origin, e.package)]
    found = [entry for entry in entries if entry.name == bare]
    if not found:
        raise RecipeError(unknown(kind or "part", part, {entry.name for entry in entries}))
    return "\n\n".join(map(_card, found))


def _card(entry: Entry) -> str:
    lines = [f"{entry.kind} {entry.name}   (plug-in {entry.origin})", ""]
    lines += [f"  {line}" for line in (inspect.getdoc(entry.factory) or "").split("\n")]
    fields = entry.params.model_fields
    hints = hints_of(entry.factory)
    lines += ["", "  Settings:" if fields else "  No settings."]
    for setting, field in fields.items():
        default = "required" if field.is_required() else f"default {field.default!r}"
        lines.append(f"    {setting}: {shown(hints[setting])}  ({default})")
    return "\n".join(lines)
