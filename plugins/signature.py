"""A part's settings, read off its signature: nothing is declared twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, create_model

from didact.core import protocols
from didact.core.errors import PluginError
from didact.core.schedule import Scalar
from didact.plugins.spec import (
    CALLED,
    PROVIDED,
    RESERVED,
    Advantage,
    Buffer,
    Critic,
    Environment,
    Reward,
    Sampler,
    Source,
    Stage,
    Task,
)

SPECS: dict[Any, Any] = {
    protocols.AdvantageEstimator: Advantage,
    protocols.RewardProvider: Reward,
    protocols.CritiqueProvider: Critic,
    protocols.RolloutSource: Source,
    protocols.ReplayBuffer: Buffer,
    protocols.Environment: Environment,
    protocols.TaskSource: Task,
    protocols.Sampler: Sampler,
    protocols.Stage: Stage,
}


def params_of(kind: str, factory: Callable[..., Any]) -> type[BaseModel]:
    """Read a part's settings off its signature: nothing is declared twice.

    Of a class they are the constructor's parameters; of a function of data the keyword-only ones;
    of any other function all. A parameter annotated with one of our protocols is itself a part.

    Raises:
        PluginError: a type cannot be looked up, or no recipe could give such a setting.
    """
    name = getattr(factory, "__name__", "part")
    try:
        return _params(kind, name, factory)
    except (NameError, TypeError, ValueError, PydanticUserError) as error:
        hint = "; import types outside of TYPE_CHECKING" if isinstance(error, NameError) else ""
        raise PluginError(
            f"{kind} '{name}': its settings cannot be read off its signature: {error}{hint}."
        ) from error


def _params(kind: str, name: str, factory: Callable[..., Any]) -> type[BaseModel]:
    is_class = inspect.isclass(factory)
    hints = hints_of(factory)
    only_keywords = kind in CALLED and not is_class
    declared: dict[str, Any] = {
        p.name: (_spec(kind, hints[p.name]), _default(factory, p))
        for p in inspect.signature(factory).parameters.values()
        if p.name not in PROVIDED.get(kind, ())
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and (p.kind is p.KEYWORD_ONLY or not only_keywords)
    }
    taken = {"use", *RESERVED.get(kind, ())} & declared.keys()
    if taken:
        raise PluginError(
            f"{kind} '{name}' has a setting called '{min(taken)}', a word that recipes use for "
            f"something else; rename it."
        )
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="constants")
    return create_model(name, __config__=config, **declared)


def hints_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The types of a part's parameters, ranges included; `Any` of those that have none."""
    made = factory.__init__ if inspect.isclass(factory) else factory
    untyped = dict.fromkeys(inspect.signature(factory).parameters, Any)
    return untyped | get_type_hints(made, include_extras=True)


def shown(hint: Any) -> str:
    """A parameter's type as a person reads it: `int >= 1`, `float > 0 | None`, `RewardProvider`."""
    outer, inner = get_origin(hint), get_args(hint)
    if outer is Annotated:
        return f"{shown(inner[0])}{ranges(inner[1:])}"
    if outer in (Union, UnionType):
        return " | ".join(map(shown, inner))
    if hint == protocols.AdvantageEstimator:
        return "AdvantageEstimator"
    if outer is Literal:
        return " | ".join(map(repr, inner))
    if outer is not None:
        return f"{outer.__name__}[{', '.join(map(shown, inner))}]"
    return "None" if hint is NoneType else getattr(hint, "__name__", str(hint))


def ranges(metadata: Iterable[Any]) -> str:
    """The bounds among a type's annotations: " >= 0 <= 1"."""
    bounds = [bound for item in metadata for bound in getattr(item, "metadata", [item])]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return "".join(
        f" {sign} {getattr(bound, name):g}"
        for bound in bounds
        for name, sign in signs.items()
        if hasattr(bound, name)
    )


def _spec(kind: str, hint: Any) -> Any:
    """The type a recipe's value must have: protocols become parts, floats may be schedules."""
    if hint is float and kind in CALLED | {"source"}:
        return Scalar
    if _hashable(hint) and hint in SPECS:
        return SPECS[hint]
    outer, arguments = get_origin(hint), get_args(hint)
    if outer is Annotated:
        return Annotated[_spec(kind, arguments[0]), *arguments[1:]]
    inner = tuple(_spec(kind, a) for a in arguments)
    if outer in (Union, UnionType):
        return Union[inner]  # noqa: UP007
    if outer is not None and any(a in SPECS for a in arguments if _hashable(a)):
        return outer[inner]
    return hint


def _default(factory: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """A parameter's default, in pydantic's terms."""
    made = {f.name: f.default_factory for f in fields(factory)} if is_dataclass(factory) else {}
    maker = made.get(parameter.name, MISSING)
    if maker is not MISSING:
        return Field(default_factory=maker)
    return ... if parameter.default is parameter.empty else parameter.default


def _hashable(item: object) -> bool:
    return getattr(item, "__hash__", None) is not None
