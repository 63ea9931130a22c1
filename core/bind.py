"""Binding by name: what a pure function reads is what its signature says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from didact.core.protocols import Names

F = TypeVar("F", bound=Callable[..., object])


def columns_of(function: Callable[..., object]) -> tuple[str, ...]:
    """The positional parameters of a loss, weight or estimator: the columns it reads."""
    plain = inspect.isroutine(function) or isinstance(function, partial)
    call = function if plain else function.__call__  # type: ignore[operator]
    parameters = inspect.signature(call).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def adds(*names: str) -> Callable[[F], F]:
    """Declare everything an estimator returns, if that is not "advantages" alone.

    `@adds("advantages", "returns")`; a class says `adds = frozenset({...})` instead.
    """

    def mark(function: F) -> F:
        function.adds = frozenset(names)  # type: ignore[attr-defined]
        return function

    return mark


def adds_of(function: Callable[..., object]) -> Names:
    """What an estimator returns: as declared, else "advantages"."""
    while isinstance(function, partial):
        function = function.func
    declared: Names = getattr(function, "adds", frozenset({"advantages"}))
    return declared
