"""Checked data with errors in our words: unknown keys refused, the nearest named, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from didact.core.errors import unknown


def problem(message: str, loc: tuple[str | int, ...], given: object) -> InitErrorDetails:
    """One validation error in our words, to be raised together with the others."""
    kind = PydanticCustomError("recipe", "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=loc, input=given)


class Strict(BaseModel):
    """Refuses unknown keys, says what is nearest, and reports all errors of a level at once."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        errors: list[InitErrorDetails] = []
        if isinstance(data, Mapping) and not hasattr(cls, "kind"):  # parts split their own keys
            for key in [key for key in data if key not in cls.model_fields]:
                said = unknown("key", str(key), cls.model_fields)
                errors.append(problem(said, (key,), data[key]))
            data = {key: value for key, value in data.items() if key in cls.model_fields}
        try:
            made = handler(data)
        except ValidationError as error:
            raise joined(cls.__name__, errors, error) from None
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return made


def joined(title: str, first: list[InitErrorDetails], error: ValidationError) -> ValidationError:
    """Several errors of ours and pydantic's as one exception."""
    more = [problem(plain(e["msg"]), e["loc"], e["input"]) for e in error.errors()]
    return ValidationError.from_exception_data(title, first + more)


def plain(message: str) -> str:
    """A message without pydantic's prefixes."""
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
