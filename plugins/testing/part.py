"""A registered part under test, and what a test has to be told about it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from didact.core.errors import PluginError, RecipeError, unknown
from didact.core.types import Problem
from didact.plugins.registry import Entry, Registry
from didact.plugins.spec import CALLED, PROVIDED, Stage, Use


class Broken(AssertionError):
    """A part does not keep a promise."""


def demand(kept: bool, otherwise: str) -> None:
    """Raise `Broken` unless the promise is kept."""
    if not kept:
        raise Broken(otherwise)


@dataclass(frozen=True)
class Example:
    """What cannot be read off a part's signature. Everything has a default.

    Attributes:
        settings: as a recipe would write them; needed for settings without a default.
        rows: inputs of a loss, weight or advantage that are one number per row, [B]; other names
            that didact does not know are taken for columns, [B, T].
        between: ranges that inputs must lie in.
        among: the only values that inputs can have.
        problems: what a reward, critic or environment is tried on; answers included.
        responses: texts of which a reward can score at least one.
        grouped: a reward or weight that compares the responses to one prompt.
        seconds: most that any one promise may take.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[str] = ()
    between: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    among: Mapping[str, Sequence[float]] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    responses: Sequence[str] = ()
    grouped: bool = False
    seconds: float = 10.0


@dataclass(frozen=True)
class Part:
    """A registered part, made from an example's settings as a recipe would make it."""

    entry: Entry
    example: Example
    registry: Registry

    def __str__(self) -> str:
        return f"{self.entry.kind}:{self.entry.name}"

    def make(self, **given: Any) -> Any:
        """A fresh object; `given` are the parameters that the framework provides.

        Raises:
            Broken: the example's settings do not suit the part, or are lacking.
        """
        try:
            context = {"registry": self.registry}
            given_here = dict(self.example.settings)
            settings = self.entry.params.model_validate(given_here, context=context)
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise Broken(f"{self} needs settings in its example: {told}") from None
        return made(self.entry, settings, self.registry, given)


def made(entry: Entry, settings: Any, registry: Registry, given: Mapping[str, Any]) -> Any:
    """A part with checked settings: a class constructed, a function bound, nested parts first."""
    names = type(settings).model_fields
    values = {name: _value(getattr(settings, name), registry, given) for name in names}
    provided = PROVIDED.get(entry.kind, set())
    accepted = inspect.signature(entry.factory).parameters.keys() & provided
    values |= {name: value for name, value in given.items() if name in accepted}
    if entry.kind in CALLED and not inspect.isclass(entry.factory):
        return partial(entry.factory, **values) if values else entry.factory
    return entry.factory(**values)


def _value(value: Any, registry: Registry, given: Mapping[str, Any]) -> Any:
    if isinstance(value, Use | Stage):
        return made(registry.get(value.kind, value.use), value.params, registry, given)
    if isinstance(value, Mapping):
        return {key: _value(item, registry, given) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, registry, given) for item in value]
    return value


def parts_of(
    registry: Registry, plugin: str, examples: Mapping[str, Example] | None = None
) -> Iterator[Part]:
    """Every part that a plug-in registers, by its entry-point name or its package's.

    Args:
        examples: by `kind:name`.

    Raises:
        PluginError: the plug-in is broken, not installed, or an example is for no part of it.
    """
    broken = registry.plugins.get(plugin)
    if broken is not None and broken.problem:
        raise PluginError(f"plug-in '{plugin}' is broken: {broken.problem}\n{broken.trace}")
    entries = [e for e in registry.entries() if plugin in (e.origin, e.package)]
    if not entries and plugin not in registry.plugins:
        installed = {entry.origin for entry in registry.entries()}
        said = unknown("plug-in", plugin, {*installed, *registry.plugins})
        raise PluginError(f"{said} Is its package installed here (pip install -e .)?")
    examples = examples or {}
    names = {f"{e.kind}:{e.name}" for e in entries}
    for name in examples:
        if name not in names:
            raise PluginError(
                f"an example is for no part of '{plugin}': " + unknown("part", name, names)
            )
    for entry in entries:
        yield Part(entry, examples.get(f"{entry.kind}:{entry.name}", Example()), registry)


def settings_of(part: Part) -> Any:
    """The model of a part's settings.

    Raises:
        Broken: a setting has a name that recipes use for something else, or cannot be typed.
    """
    try:
        return part.entry.params
    except (PluginError, RecipeError, NameError, TypeError) as error:
        raise Broken(str(error)) from error
