"""How a recipe names a part: `use:`, its settings beside it, and stages as verbs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from didact.core.errors import RecipeError, unknown
from didact.core.schedule import Scalar, Schedule
from didact.plugins.strict import Strict, plain, problem

CALLED = frozenset({"reward", "critic", "advantage", "loss", "weight"})
"""Kinds whose parts are functions of data: a function is bound to its keyword-only settings. In
all other kinds, and for classes, the factory is called with its settings."""

RESERVED = {
    "loss": {
        "weight",
        "where",
        "tokens",
        "times",
        "select",
        "bind",
        "average",
        "batch_average",
        "recount",
        "label",
    },
    "reward": {"weight", "offset"},
    "weight": {"bind"},
}
"""Keys that a recipe writes beside a part's settings, by kind: no setting may be called so."""

PROVIDED = {
    "sampler": {"task", "seed"},
    "stage": {"rewards"},
    "rule": {"average"},
    "generator": {"model", "spec", "tokenizer", "temperature", "world", "sampling"},
    "learner": {"model", "tokenizer", "optimizers", "temperature", "world", "values"},
    "observer": {"folder", "steps"},
}
"""Parameters that the framework fills in, by kind: not for recipes."""


class Use(Strict):
    """A part by name, its settings beside it: `{use: ring, capacity: 64}`.

    A bare string is a part with its defaults. Subclasses fix the kind and may add fields of their
    own, which then cannot be settings of the part.
    """

    kind: ClassVar[str]
    use: str
    params: SerializeAsAny[BaseModel]

    @model_validator(mode="before")
    @classmethod
    def _split(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, cls):
            return data
        data = {"use": data} if isinstance(data, str) else data
        if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
            raise ValueError(f"name the {cls.kind} with 'use:', or give just its name")
        registry = (info.context or {})["registry"]
        try:
            entry = registry.get(cls.kind, data["use"])
        except RecipeError as error:
            raise ValueError(str(error)) from None
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        rest = {key: value for key, value in data.items() if key not in own or key == "params"}
        params, errors = settings(entry, rest, info, {*cls.model_fields} - {"use", "params"})
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return {**own, "params": params}

    @model_serializer
    def _flat(self) -> Any:
        own = {k: getattr(self, k) for k in type(self).model_fields if k not in ("use", "params")}
        given = {k: dump(v) for k, v in own.items() if k in self.model_fields_set}
        params = {k: dump(getattr(self.params, k)) for k in type(self.params).model_fields}
        return {"use": self.use, **params, **given}


def dump(value: Any) -> Any:
    """A setting as plain data; components as their `use:` form."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=isinstance(value, Schedule))
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [dump(item) for item in value]
    return value


def settings(
    entry: Any, given: Mapping[str, Any], info: ValidationInfo, own: set[str]
) -> tuple[BaseModel | None, list[InitErrorDetails]]:
    """Validate a part's settings; all mistakes together."""
    model: type[BaseModel] = entry.params
    errors = [
        problem(
            unknown(
                f"setting of {entry.kind} '{entry.name}'", str(key), {*model.model_fields, *own}
            ),
            (key,),
            value,
        )
        for key, value in given.items()
        if key not in model.model_fields
    ]
    known = {key: value for key, value in given.items() if key in model.model_fields}
    try:
        return model.model_validate(known, context=info.context), errors
    except ValidationError as error:
        more = [problem(plain(e["msg"]), e["loc"], e["input"]) for e in error.errors()]
        return None, errors + more


class Advantage(Use):
    """An advantage estimator."""

    kind = "advantage"


class Reward(Use):
    """A reward, and what it counts for: weight x value + offset."""

    kind = "reward"
    weight: Scalar = 1.0
    offset: Scalar = 0.0


class Critic(Use):
    """A critique provider."""

    kind = "critic"


class Source(Use):
    """A rollout source."""

    kind = "source"


class Buffer(Use):
    """A buffer."""

    kind = "buffer"


class Environment(Use):
    """An environment."""

    kind = "environment"


class Task(Use):
    """A task source."""

    kind = "task"


class Sampler(Use):
    """A sampler."""

    kind = "sampler"


class Generator(Use):
    """A generator backend."""

    kind = "generator"


class Learner(Use):
    """A learner backend."""

    kind = "learner"


class Observer(Use):
    """An observer."""

    kind = "observer"


class Weight(Use):
    """A per-token multiplier, and where its columns are read from."""

    kind = "weight"
    bind: dict[str, str] = {}


class Stage(Strict):
    """A verb of `experience:`, `{rollout: {use: policy, n: 8}}`; a bare `score` takes its defaults.

    If a stage has a part as its one required setting (a rollout its source, an advantage its
    estimator), the part's `use:` and settings are written beside the stage's own.
    """

    kind: ClassVar[str] = "stage"
    use: str
    params: SerializeAsAny[BaseModel]

    @model_validator(mode="before")
    @classmethod
    def _verb(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, str):
            data = {data: {}}
        if not isinstance(data, Mapping) or len(data) != 1:
            raise ValueError("a stage is one verb, e.g. '- score' or '- rollout: {use: policy}'")
        verb, body = next(iter(data.items()))
        try:
            entry = (info.context or {})["registry"].get("stage", verb)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        body = _nested(entry, body)
        params, errors = settings(entry, body, info, set())
        if errors:
            at = [InitErrorDetails(**{**e, "loc": (verb, *e.get("loc", ()))}) for e in errors]
            raise ValidationError.from_exception_data("stage", at)
        return {"use": verb, "params": params}

    @model_serializer
    def _flat(self) -> Any:
        body = {k: dump(getattr(self.params, k)) for k in type(self.params).model_fields}
        return {self.use: body}


def main_part(entry: Any) -> str | None:
    """The one required setting of a stage that is itself a part."""
    fields = entry.params.model_fields.items()
    parts = [name for name, field in fields if field.is_required() and _is_use(field.annotation)]
    return parts[0] if len(parts) == 1 else None


def _is_use(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, Use)


def _nested(entry: Any, body: Any) -> Mapping[str, Any]:
    main = main_part(entry)
    if body is None:
        return {}
    if isinstance(body, str):
        if main is None:
            raise ValueError(f"stage '{entry.name}' takes settings, not the name '{body}'")
        return {main: body}
    if not isinstance(body, Mapping):
        raise ValueError(f"the settings of stage '{entry.name}' must be a mapping")
    if main is None or "use" not in body:
        return body
    own = entry.params.model_fields
    part = {key: value for key, value in body.items() if key not in own}
    given = body.get(main, {})  # as in a resolved recipe, and as `set:` may reach for it
    if not isinstance(given, Mapping) or given.get("use", part["use"]) != part["use"]:
        raise ValueError(f"names its {main} twice: by 'use: {part['use']}' and by '{main}:'")
    return {**{key: value for key, value in body.items() if key in own}, main: {**part, **given}}
