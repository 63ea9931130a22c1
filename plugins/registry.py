"""Names to factories, one table per kind, each entry knowing who put it there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pydantic import BaseModel

from didact.core.errors import PluginError, RecipeError, unknown

HOOKS = {
    "source": "register_sources",
    "environment": "register_environments",
    "reward": "register_rewards",
    "critic": "register_critics",
    "advantage": "register_advantages",
    "loss": "register_losses",
    "weight": "register_weights",
    "rule": "register_rules",
    "buffer": "register_buffers",
    "sampler": "register_samplers",
    "stage": "register_stages",
    "task": "register_tasks",
    "generator": "register_generators",
    "learner": "register_learners",
    "observer": "register_observers",
}
"""Every kind of part and the hook that adds it."""


class Register(Protocol):
    """What a registration hook is handed."""

    def __call__(self, name: str, factory: Callable[..., Any]) -> None: ...


@dataclass(frozen=True)
class Entry:
    """A named part.

    Attributes:
        factory: a class to construct, or a function to bind settings to.
        origin: the plug-in that registered it.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    origin: str

    @cached_property
    def params(self) -> type[BaseModel]:
        """Model of the settings a recipe may give, read off the signature when first asked for."""
        from didact.plugins.spec import params_of

        return params_of(self.kind, self.factory)

    @property
    def summary(self) -> str:
        """First line of the part's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n")[0]


class Registry:
    """A two-level table: kind, then name. A part is also found as `plug-in/name`."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, Entry]] = {kind: {} for kind in HOOKS}
        self.broken: dict[str, str] = {}

    def register(self, kind: str, name: str, factory: Callable[..., Any], origin: str) -> None:
        """Add a part.

        Raises:
            PluginError: a part of that kind and name exists, or the factory cannot be called.
        """
        table = self._tables[kind]
        if not callable(factory):
            raise PluginError(f"{kind} '{name}' of '{origin}' is not callable: {factory!r}.")
        if name in table:
            raise PluginError(
                f"{kind} '{name}' is registered twice: by '{table[name].origin}' and '{origin}'. "
                f"Rename one of them, e.g. '{origin}/{name}'."
            )
        table[name] = Entry(kind, name, factory, origin)

    def get(self, kind: str, name: str) -> Entry:
        """Find a part by `name` or `plug-in/name`.

        Raises:
            RecipeError: there is none; says the nearest, what exists, and which plug-ins failed.
        """
        table = self._tables[kind]
        if name in table:
            return table[name]
        origin, _, bare = name.rpartition("/")
        if bare in table and table[bare].origin == origin:
            return table[bare]
        broken = "".join(f"\n  plug-in '{who}' failed: {why}" for who, why in self.broken.items())
        raise RecipeError(unknown(kind, name, table) + broken)

    def names(self, kind: str) -> list[str]:
        return sorted(self._tables[kind])

    def entries(self) -> Iterator[Entry]:
        for kind in HOOKS:
            yield from (self._tables[kind][name] for name in self.names(kind))
