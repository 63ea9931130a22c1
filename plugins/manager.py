"""Loading plug-ins and filling the registry from their hooks, each kept apart from the others."""

from __future__ import annotations

import inspect
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from didact.core.errors import PluginError
from didact.plugins import hookspecs
from didact.plugins.registry import HOOKS, Plugin, Registry
from didact.plugins.spec import CALLED

GROUP = "didact"
API = 1
"""Version of what plug-ins rely on: it goes up when a plug-in would have to change."""
SUPPORTED = (1,)
"""The versions that this release still serves."""
DECLARED = "DIDACT_API"
"""A plug-in module may say which versions it works with: `DIDACT_API = ">=1,<2"`, or a number."""

Staged = tuple[str, str, Callable[..., Any]]


def load(
    extra: Sequence[Any] = (), installed: bool = True, conflicts: list[str] | None = None
) -> Registry:
    """Fill a registry: built-ins, then installed entry points, then `extra` objects.

    An installed plug-in that fails to import, misspells a hook, declares another API, raises while
    it registers or registers what is no part adds nothing and is a warning here; it is an error,
    with its traceback, once a recipe asks for a part that does not exist (it may well have been
    that plug-in's).

    Args:
        conflicts: takes the conflicts between plug-ins as text, so that they are not raised.

    Raises:
        PluginError: two plug-ins or two parts of one name, or a misspelt hook in `extra`.
    """
    from didact.plugins import builtin

    manager = pluggy.PluginManager("didact")
    manager.add_hookspecs(hookspecs)
    registry = Registry()
    clashes = _Clashes(conflicts)
    _add(registry, _staged(manager, builtin, "didact"), "didact", "didact", clashes)
    for point in _distinct(entry_points(group=GROUP), clashes) if installed else ():
        plugin, parts = _loaded(manager, point)
        registry.plugins[point.name] = plugin
        _add(registry, parts, plugin.name, plugin.package, clashes)
        if plugin.problem:
            warnings.warn(
                f"plug-in '{plugin.name}' of '{plugin.package}' could not be loaded from "
                f"'{plugin.module}': {plugin.problem}",
                stacklevel=2,
            )
    for plugin in extra:
        name = getattr(plugin, "__name__", str(plugin))
        _add(registry, _staged(manager, plugin, name), name, "", clashes)
    return registry


class _Clashes:
    """Raises what is told to it, or keeps it in a list."""

    def __init__(self, kept: list[str] | None) -> None:
        self.kept = kept

    def __call__(self, text: str) -> None:
        if self.kept is None:
            raise PluginError(text)
        self.kept.append(text)


def _distinct(points: Iterable[EntryPoint], clash: _Clashes) -> list[EntryPoint]:
    """The entry points, in order of their names; one called as another is a conflict."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(points, key=lambda point: (point.name, _owner(point)[0])):
        if point.name == GROUP or point.name in found:
            other = _owner(found[point.name])[0] if point.name in found else "didact itself"
            clash(
                f"two plug-ins are called '{point.name}': that of '{_owner(point)[0]}' and that of "
                f"'{other}'. Uninstall one, or rename its entry point."
            )
        else:
            found[point.name] = point
    return list(found.values())


def _owner(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("?", "?")


def _loaded(manager: pluggy.PluginManager, point: EntryPoint) -> tuple[Plugin, list[Staged]]:
    """Import a plug-in and collect its parts; all of them, or none and the reason."""
    package, version = _owner(point)
    plugin = Plugin(point.name, point.value, package, version)
    began = time.perf_counter()
    try:
        module = point.load()
        plugin = replace(plugin, seconds=time.perf_counter() - began, api=declared_api(module))
        return plugin, _staged(manager, module, point.name)
    except (Exception, SystemExit) as error:  # a script that was meant to be run leaves
        reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        said = str(error) if isinstance(error, PluginError) else reason
        return replace(plugin, problem=said, trace=_trace(error)), []


def _trace(error: BaseException) -> str:
    """The frames of a failure that are not ours, nor those of the import machinery."""
    told = traceback.TracebackException.from_exception(error)
    ours = (__file__, "importlib", "pluggy")
    kept = [frame for frame in told.stack if not any(part in frame.filename for part in ours)]
    told.stack = traceback.StackSummary.from_list(kept)
    return "".join(told.format(chain=False)).rstrip()


def declared_api(module: object) -> str:
    """The plug-in API a module declares, "" if none.

    Raises:
        PluginError: it cannot be read, or no supported version is in it.
    """
    given = getattr(module, DECLARED, None)
    if given is None:
        return ""
    text = f"=={given}" if isinstance(given, int) else str(given)
    try:
        wanted = SpecifierSet(text)
    except InvalidSpecifier:
        raise PluginError(f"{DECLARED} is {given!r}; write it as a range, e.g. '>=1,<2'.") from None
    if not any(wanted.contains(str(version)) for version in SUPPORTED):
        served = f"{SUPPORTED[0]} to {SUPPORTED[-1]}" if len(SUPPORTED) > 1 else f"{SUPPORTED[0]}"
        raise PluginError(f"it needs plug-in API {text}, and this didact serves {served}.")
    return text


def _staged(manager: pluggy.PluginManager, plugin: Any, name: str) -> list[Staged]:
    """What a plug-in's hooks register, without registering it yet."""
    manager.register(plugin, name)
    try:
        manager.check_pending()
        parts: list[Staged] = []
        for kind, hook in HOOKS.items():
            for impl in getattr(manager.hook, hook).get_hookimpls():
                if impl.plugin is plugin:
                    _silent(hook, impl.function(partial(_stage, parts, kind)))
        return parts
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error)) from error
    finally:
        manager.unregister(plugin)


def _silent(hook: str, returned: object) -> None:
    """Refuse a hook that gives its parts back, or that is a coroutine or generator and never ran.

    Raises:
        PluginError: it returned something.
    """
    if returned is not None:
        raise PluginError(
            f"its hook '{hook}' returned a {type(returned).__name__}; a hook is a plain function "
            f"that calls register(name, part) for each part, and returns nothing."
        )


def _stage(parts: list[Staged], kind: str, name: str, factory: Callable[..., Any]) -> None:
    """Take note of a part.

    Raises:
        PluginError: that is no name, or nothing that can be called to make or be a part.
    """
    if not isinstance(name, str) or not name or not callable(factory):
        said = f"register({name!r}, {factory!r}) does not register a {kind} by name and part."
        raise PluginError(said)
    if inspect.iscoroutinefunction(factory):
        raise PluginError(f"its {kind} '{name}' is an async function; parts are called plainly.")
    made = kind not in CALLED and not inspect.isclass(factory) and not inspect.isroutine(factory)
    if made and not isinstance(factory, partial):
        raise PluginError(
            f"its {kind} '{name}' is an object of {type(factory).__name__}; register the class, "
            f"which is made anew with a recipe's settings."
        )
    parts.append((kind, name, factory))


def _add(
    registry: Registry, parts: Iterable[Staged], origin: str, package: str, clash: _Clashes
) -> None:
    for kind, name, factory in parts:
        try:
            registry.register(kind, name, factory, origin, package)
        except PluginError as error:
            clash(str(error))
