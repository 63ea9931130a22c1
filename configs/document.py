"""Recipe files as data: YAML, inheritance, overrides, and the place every value came from.

`extends: NAME` (or a list, later ones win) starts from other recipes: packaged ones by name, files
by a path relative to this file. Then, key by key:

* a mapping is merged into the inherited mapping (`pool: {capacity: 9}` into `pool: queue` too);
* a mapping with a `use:` that differs from the inherited one replaces it whole, as any `average:`;
* anything else (scalar, list) replaces what was inherited;
* `!remove` takes an inherited key away (an error if there is none);
* last, `set:` changes single places by their path, inside lists too: `experience.0.rollout.n: 4`.

The command line's `a.b=c` does the same as `set:`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from didact.configs.notation import KEYS, REMOVE, Loader, whole
from didact.core.errors import RecipeError, unknown
from didact.plugins.recipes import recipe_files, recipe_named

PACKAGED = Path(__file__).parent
Spot = tuple[str | int, ...]
ONE_OR_MANY = frozenset({"rule", "times", "select"})
"""Keys where one item may be written for a list of one."""


@dataclass(frozen=True)
class Place:
    """Where a value was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class Document:
    """Plain data, and for each location in it the place it came from."""

    name: str = "recipe"
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Spot, Place] = field(default_factory=dict)

    def place(self, spot: Sequence[str | int]) -> Place:
        """The place of a location, or of the nearest one around it."""
        at = tuple(spot)
        while at and at not in self.places:
            at = at[:-1]
        return self.places.get(at, Place(self.name, 0))


def read(source: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a recipe by path or packaged name, resolve `extends:` and `set:`, apply overrides.

    Raises:
        RecipeError: the file is missing or not YAML, extends itself, or an override has no target.
    """
    document = _resolve(locate(source), ())
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"override '{text}': write it as path=value, e.g. steps=100.")
        try:
            data = yaml.load(value, Loader)
        except yaml.YAMLError as error:
            raise RecipeError(f"override '{text}': {_first_line(error)}") from None
        assign(document, path, data, Place(f"override {text}", 0))
    return document


def packaged() -> list[str]:
    """Names of the recipes that come with didact, then those of plug-ins as `plug-in/name`."""
    own, others = (path.stem for path in PACKAGED.glob("*.yaml")), recipe_files()
    every = [*sorted(own), *sorted(others)]
    return [name for name in every if not name.endswith(".compare")]


def locate(source: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe: a path, or the name of a packaged one or of a plug-in's."""
    path = Path(source)
    for candidate in ([beside / path] if beside else []) + [path]:
        if candidate.is_file():
            return candidate
    if path.suffix not in (".yaml", ".yml") and (found := recipe_named(str(source), PACKAGED)):
        return found
    if path.suffix in (".yaml", ".yml") or "/" in str(source):
        raise RecipeError(f"{source}: no such file.")
    if (PACKAGED / f"{source}.compare.yaml").is_file():
        raise RecipeError(f"'{source}' is a comparison: run it with `didact compare {source}`.")
    raise RecipeError(unknown("recipe", str(source), packaged()))


def _resolve(file: Path, chain: tuple[Path, ...]) -> Document:
    if file in chain:
        raise RecipeError(f"{file.name}: extends itself through {chain[-1].name}.")
    own = parse(file)
    parents = own.data.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(name, str) for name in parents):
        raise RecipeError(f"{own.place(('extends',))}: extends: name a recipe, or list several.")
    changes = own.data.pop("set", {})
    merged = Document(file.stem)
    for parent in parents:
        try:
            base = locate(parent, file.parent)
        except RecipeError as error:
            raise RecipeError(f"{own.place(('extends',))}: extends: {error}") from None
        _merge(merged, _resolve(base, (*chain, file)), ())
    _merge(merged, own, ())
    if not isinstance(changes, Mapping):
        raise RecipeError(f"{own.place(('set',))}: set: must map paths to values.")
    for path, value in changes.items():
        assign(merged, str(path), value, own.place(("set", path)))
    return merged


def parse(file: Path) -> Document:
    """One file as it stands, without inheritance."""
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file.name}: not UTF-8 (byte {error.start}).") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{file.name}:{_line(error)}: {_first_line(error)}") from None
    if node is None:
        return Document(file.stem)
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{file.name}:1: a recipe is a mapping of keys to values.")
    places = {spot: Place(file.name, line) for spot, line in _lines(node, file.name)}
    loader = Loader(text)
    try:
        return Document(file.stem, loader.get_single_data(), places)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file.name}:{_line(error)}: {_first_line(error)}") from None


def _line(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _first_line(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


def _lines(node: yaml.Node, file: str, at: Spot = ()) -> Iterator[tuple[Spot, int]]:
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in KEYS:
                raise RecipeError(f"{file}:{line}: a key must be a word or a whole number.")
            if key.value in seen:
                raise RecipeError(f"{file}:{line}: key '{key.value}' is given twice.")
            seen.add(key.value)
            name: str | int = whole(key.value) if key.tag.endswith(":int") else key.value
            yield (*at, name), line
            yield from ((s, n) for s, n in _lines(value, file, (*at, name)) if s != (*at, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, file, (*at, index))


def _merge(into: Document, new: Document, at: Spot) -> None:
    """Merge `new` into `into`, at one location of both."""
    old_data: Any = into.data
    new_data: Any = new.data
    for part in at:
        old_data, new_data = old_data[part], new_data[part]
    for key, value in new_data.items():
        spot = (*at, key)
        if value is REMOVE:
            if key not in old_data:
                raise RecipeError(
                    f"{new.place(spot)}: {_dotted(spot)}: nothing to remove: "
                    + unknown("inherited key", str(key), map(str, old_data))
                )
            del old_data[key]
            _forget(into, spot)
        elif key != "average" and _mergeable(old_data.get(key), value):
            old_data[key] = _opened(old_data[key], spot)
            into.places[spot] = new.place(spot)
            _merge(into, new, spot)
        else:
            _forget(into, spot)
            old_data[key] = _without_removals(value, new, spot)
            into.places |= {s: p for s, p in new.places.items() if s[: len(spot)] == spot}


def _without_removals(value: Any, new: Document, spot: Spot) -> Any:
    """What replaces an inherited value whole; there is nothing in it to remove."""
    if isinstance(value, dict):
        for key, item in value.items():
            if item is REMOVE:
                raise RecipeError(
                    f"{new.place((*spot, key))}: {_dotted((*spot, key))}: nothing to remove: "
                    f"'{_dotted(spot)}' does not inherit anything here."
                )
            _without_removals(item, new, (*spot, key))
    return value


def _mergeable(old: Any, new: Any) -> bool:
    """Two mappings, or a bare part name and settings for it, unless `new` names another part."""
    if not isinstance(old, dict | str) or not isinstance(new, dict):
        return False
    named = old if isinstance(old, str) else old.get("use")
    return "use" not in new or named == new["use"]


def _forget(document: Document, spot: Spot) -> None:
    for known in [known for known in document.places if known[: len(spot)] == spot]:
        del document.places[known]


def _dotted(spot: Spot) -> str:
    return ".".join(map(str, spot))


def assign(document: Document, path: str, value: Any, place: Place) -> None:
    """Set one location given as a dotted path; integers index lists. Only mappings grow."""
    spot: Spot = ()
    here: Any = document.data
    keys = path.split(".")
    for key, after in zip(keys, [*keys[1:], None], strict=True):
        step = _step(here, key, f"{place}: {path}: '{_dotted(spot)}'")
        spot = (*spot, step)
        if after is not None:
            if isinstance(here, dict):
                here.setdefault(step, {})
            here[step] = _opened(here[step], spot, after)
            here = here[step]
    _forget(document, spot)
    if value is not REMOVE:
        here[step] = deepcopy(value)
        document.places[spot] = place
    elif isinstance(here, dict) and step not in here:
        said = unknown("key", str(step), map(str, here))
        raise RecipeError(f"{place}: {path}: nothing to remove: {said}")
    else:
        here.pop(step)
        if isinstance(here, list):
            _close_up(document.places, spot)


def _close_up(places: dict[Spot, Place], gone: Spot) -> None:
    """What stood behind an item that was taken out of a list has moved up by one."""
    *above, at = gone
    depth = len(above)
    behind = [s for s in places if s[:depth] == (*above,) and s[depth:] > (at,)]
    moved = {spot: places.pop(spot) for spot in behind}
    for spot, place in moved.items():
        places[*above, int(spot[depth]) - 1, *spot[depth + 1 :]] = place


def _step(here: Any, key: str, where: str) -> str | int:
    """A key of a path as the key of what it leads into."""
    if isinstance(here, list):
        if not key.isdigit() or int(key) >= len(here):
            said = f"is a list of {len(here)}; '{key}' is not one of its positions."
            raise RecipeError(f"{where} {said}")
        return int(key)
    if not isinstance(here, dict):
        raise RecipeError(f"{where} has no parts.")
    return int(key) if key.isdigit() and int(key) in here else key


def _opened(value: Any, spot: Spot, after: str = "") -> Any:
    """One item as a list of it, if a position follows; a bare name with room for its settings."""
    if spot[-1] in ONE_OR_MANY and after.isdigit() and not isinstance(value, list):
        return [value]
    if not isinstance(value, str):
        return value
    return {value: {}} if spot[-2:-1] in (("experience",), ("stages",)) else {"use": value}
