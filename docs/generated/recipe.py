"""The reference of what a recipe may say, from its pydantic models and the modules' docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from didact.algorithms import average
from didact.configs import document, schema
from didact.core import learned, schedule, where
from didact.core.backends.lora import LoraSpec
from didact.core.backends.models import ModelSpec
from didact.core.backends.optim import OptimizerSpec
from didact.plugins.signature import ranges
from didact.plugins.spec import Stage, Use
from generated.text import code, docstring, fenced, plain, table

MODELS: Mapping[str, type[BaseModel]] = {
    "Recipe": schema.Recipe,
    "Model": ModelSpec,
    "Adapters": LoraSpec,
    "Optimizer": OptimizerSpec,
    "Prompt": schema.PromptSpec,
    "Sampling": schema.SamplingSpec,
    "Phase": schema.PhaseSpec,
    "When": schema.When,
    "Term": schema.LossSpec,
    "Evaluation": schema.EvaluationSpec,
    "Checkpoint": schema.CheckpointSpec,
    "Stop": schema.StopSpec,
    "Budget": schema.BudgetSpec,
    "Schedule": schedule.Schedule,
    "Learned weight": learned.Learned,
    "Where": where.Where,
    "Range": where.Range,
    "Constant average": average.Constant,
}
"""Sections of the page and the models they show; other pages link to these names."""
TITLES = {model: title for title, model in MODELS.items()}
AVERAGE = (
    "## Average\n\nThe denominator of a term, always over the whole mini-batch: all its "
    "micro-batches and all ranks.\n\n"
)


def recipe_page() -> str:
    """The whole page."""
    lines = ["# Recipe reference", "", "Made from the models that check recipes. ", ""]
    lines += ["`didact recipe schema` prints the same as JSON Schema, for editors.", ""]
    lines += ["## Inheritance and overrides", "", _merging(), ""]
    for title, model in MODELS.items():
        lines += [f"## {title}", "", _section(model), ""]
    lines += [AVERAGE + fenced(_after(average.row_weights, "With L", "Args:")), ""]
    return "\n".join(lines)


def _merging() -> str:
    _, text, _ = docstring(document)
    return text


def _after(thing: object, start: str, end: str) -> str:
    text = inspect.getdoc(thing) or ""
    return text[text.index(start) : text.index(end)].strip()


def _section(model: type[BaseModel]) -> str:
    first, rest, said = docstring(model)
    text = f"{plain(first)}\n\n" + (f"{plain(rest)}\n\n" if rest else "")
    rows = []
    for name, field in model.model_fields.items():
        if name in ("params", "root"):
            continue
        required = "required" if field.is_required() else code(_default(field))
        kind = shown(field.annotation) + plain(ranges(field.metadata))
        rows.append((code(name), kind, required, plain(said.get(name, ""))))
    return text + table(("key", "type", "default", ""), rows)


def _default(field: Any) -> str:
    value = field.default_factory() if field.default_factory else field.default
    if value is PydanticUndefined or isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else ""
    return {None: "unset", True: "true", False: "false", "": '""'}.get(_key(value), str(value))


def _key(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | str) else object()


def shown(hint: Any) -> str:
    """An annotation in words, with links to what it is made of."""
    if hint == schedule.Scalar:
        return "number or [schedule](#schedule)"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return shown(arguments[0]) + plain(ranges(arguments[1:]))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(shown(a) for a in arguments if a is not type(None)))
    if origin is Literal:
        return " or ".join(code(str(value)) for value in arguments)
    if origin in (list, tuple):
        return f"list of {shown(arguments[0])}"
    if origin in (dict, Mapping):
        return f"{shown(arguments[0])} to {shown(arguments[1])}"
    if inspect.isclass(hint):
        return _named(hint)
    return plain(str(hint))


def _named(hint: type) -> str:
    if hint in TITLES:
        return f"[{TITLES[hint].lower()}](#{TITLES[hint].lower().replace(' ', '-')})"
    if issubclass(hint, Use | Stage):
        return f"[{hint.kind}](parts/{hint.kind}.md)"
    words = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return words.get(hint, hint.__name__)
