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
        origin: the plug-in that registered it, by its entry-point name.
        package: the distribution the plug-in came in; "" if it was not installed.
    """

    kind: str
    name: str
    factory: Callable[..., Any]
    origin: str
    package: str = ""

    @cached_property
    def params(self) -> type[BaseModel]:
        """Model of the settings a recipe may give, read off the signature when first asked for."""
        from didact.plugins.signature import params_of

        return params_of(self.kind, self.factory)

    @property
    def summary(self) -> str:
        """First line of the part's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n")[0]


@dataclass(frozen=True)
class Plugin:
    """An installed plug-in, and how loading it went.

    Attributes:
        name: of its entry point.
        module: what the entry point names.
        package, version: the distribution it came in.
        api: the plug-in API it declares; "" if it declares none.
        seconds: its import took.
        problem: why it could not be loaded, in a line; "" if it could.
        trace: the traceback of that, without frames of ours.
    """

    name: str
    module: str
    package: str
    version: str
    api: str = ""
    seconds: float = 0.0
    problem: str = ""
    trace: str = ""


class Registry:
    """A two-level table: kind, then name. A part is also found as `plug-in/name`.

    Attributes:
        plugins: the installed plug-ins by name, broken ones included.
    """

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, Entry]] = {kind: {} for kind in HOOKS}
        self.plugins: dict[str, Plugin] = {}

    def register(
        self, kind: str, name: str, factory: Callable[..., Any], origin: str, package: str = ""
    ) -> None:
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
        table[name] = Entry(kind, name, factory, origin, package)

    def get(self, kind: str, name: str) -> Entry:
        """Find a part by `name`, `plug-in/name` or `package/name`.

        Raises:
            RecipeError: there is none; says the nearest, what exists, and how plug-ins that may
                have had it failed, with their tracebacks.
        """
        table = self._tables[kind]
        if name in table:
            return table[name]
        owner, _, bare = name.rpartition("/")
        if bare in table and owner in (table[bare].origin, table[bare].package):
            return table[bare]
        raise RecipeError(unknown(kind, name, table) + self._failures(owner))

    def _failures(self, owner: str) -> str:
        """The tracebacks of broken plug-ins; only of one, if a name is addressed to it."""
        broken = [plugin for plugin in self.plugins.values() if plugin.problem]
        meant = [plugin for plugin in broken if owner in (plugin.name, plugin.package)]
        return "".join(
            f"\n  plug-in '{p.name}' of '{p.package}' failed: {p.problem}"
            + "".join(f"\n    {line}" for line in p.trace.splitlines())
            for p in meant or broken
        )

    def names(self, kind: str) -> list[str]:
        return sorted(self._tables[kind])

    def versions(self) -> dict[str, str]:
        """Each plug-in whose parts are here, with its package and version: for a run's record."""
        installed = {p.name: f"{p.package} {p.version}" for p in self.plugins.values()}
        return {entry.origin: installed.get(entry.origin, "built in") for entry in self.entries()}

    def entries(self) -> Iterator[Entry]:
        for kind in HOOKS:
            yield from (self._tables[kind][name] for name in self.names(kind))
