"""What the generated pages are about: registered parts, packaged recipes, and their evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from didact.configs.document import PACKAGED, parse
from didact.configs.load import load_recipe
from didact.configs.schema import Recipe
from didact.plugins.manager import load
from didact.plugins.registry import Entry, Registry
from didact.plugins.spec import Stage, Use

EVIDENCE = Path(__file__).parents[1] / "methods.yaml"


@dataclass(frozen=True)
class Method:
    """A packaged recipe.

    Attributes:
        parents: what it extends.
        text: the file as it stands.
        parts: `kind/name` of every part it uses, defaults included, in the order met.
    """

    name: str
    about: str
    parents: tuple[str, ...]
    text: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """Everything that the pages show.

    Attributes:
        evidence, covered, statuses: of methods.yaml; `covered` by `kind/name`.
    """

    registry: Registry
    methods: tuple[Method, ...]
    evidence: Mapping[str, Mapping[str, Any]]
    covered: Mapping[str, list[str]]
    statuses: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls) -> Site:
        """From the registry without plug-ins, the packaged recipes and methods.yaml."""
        registry = load(installed=False)
        kept = yaml.safe_load(EVIDENCE.read_text(encoding="utf-8"))
        methods = tuple(_method(path, registry) for path in _recipes())
        return cls(registry, methods, kept["evidence"], kept["parts"], kept["methods"])

    def entries(self) -> dict[str, Entry]:
        """The registered parts by `kind/name`."""
        return {f"{entry.kind}/{entry.name}": entry for entry in self.registry.entries()}

    def users(self, part: str) -> list[str]:
        """Names of the methods that use a part."""
        return [method.name for method in self.methods if part in method.parts]


def _recipes() -> list[Path]:
    files = sorted(PACKAGED.glob("*.yaml"))
    return [path for path in files if not path.stem.endswith(".compare")]


def _method(path: Path, registry: Registry) -> Method:
    recipe = load_recipe(path.stem, registry)
    parents = parse(path).data.get("extends", [])
    listed = (parents,) if isinstance(parents, str) else tuple(parents)
    text = path.read_text(encoding="utf-8")
    return Method(path.stem, " ".join(recipe.about.split()), listed, text, parts_of(recipe))


def parts_of(recipe: Recipe) -> tuple[str, ...]:
    """`kind/name` of every part in a recipe, each once, in the order met."""
    return tuple(dict.fromkeys(_used(recipe)))


def _used(value: Any) -> Iterator[str]:
    if isinstance(value, Use | Stage):
        yield f"{value.kind}/{value.use}"
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _used(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _used(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _used(item)
