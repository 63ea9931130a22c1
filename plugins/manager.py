"""Loading plug-ins and filling the registry from their hooks."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any

import pluggy

from didact.core.errors import PluginError
from didact.plugins import hookspecs
from didact.plugins.registry import HOOKS, Registry

GROUP = "didact"


def load(extra: Sequence[Any] = (), installed: bool = True) -> Registry:
    """Fill a registry: built-ins, then installed entry points, then `extra` objects.

    A plug-in that cannot be imported is a warning here, and an error once a recipe asks for a part
    that does not exist (it may well have been that plug-in's).

    Raises:
        PluginError: two plug-ins or two parts of one name, or a misspelt hook.
    """
    from didact.plugins import builtin

    manager = pluggy.PluginManager("didact")
    manager.add_hookspecs(hookspecs)
    manager.register(builtin, "didact")
    registry = Registry()
    if installed:
        _load_entry_points(manager, registry)
    for plugin in extra:
        manager.register(plugin)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error)) from error
    for kind, hook in HOOKS.items():
        for impl in getattr(manager.hook, hook).get_hookimpls():
            impl.function(partial(registry.register, kind, origin=impl.plugin_name))
    return registry


def _load_entry_points(manager: pluggy.PluginManager, registry: Registry) -> None:
    for point in entry_points(group=GROUP):
        owner = point.dist.name if point.dist else "?"
        if manager.has_plugin(point.name):
            raise PluginError(f"two plug-ins are called '{point.name}'; one is in '{owner}'.")
        try:
            manager.register(point.load(), point.name)
        except Exception:
            reason = traceback.format_exc(limit=-1).strip().splitlines()[-1]
            registry.broken[point.name] = reason
            warnings.warn(
                f"plug-in '{point.name}' of '{owner}' could not be loaded from "
                f"'{point.value}': {reason}",
                stacklevel=2,
            )
