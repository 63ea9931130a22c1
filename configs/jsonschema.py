"""The JSON Schema of recipes, built from the signatures of all registered parts, for editors."""

from __future__ import annotations

from typing import Any

from didact.configs.schema import LossSpec, Recipe
from didact.plugins import spec as parts
from didact.plugins.registry import Entry, Registry
from didact.plugins.spec import Stage, Use, main_part

USES: tuple[type[Use], ...] = (
    parts.Advantage,
    parts.Reward,
    parts.Critic,
    parts.Source,
    parts.Buffer,
    parts.Environment,
    parts.Task,
    parts.Sampler,
    parts.Generator,
    parts.Learner,
    parts.Observer,
    parts.Weight,
    LossSpec,
)


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """A JSON Schema (2020-12) in which every `use:` completes to the parts that exist."""
    schema = Recipe.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    for use in USES:
        own = dict(definitions.get(use.__name__, {}).get("properties", {}))
        own.pop("params", None)
        own.pop("use", None)
        entries = [e for e in registry.entries() if e.kind == use.kind]
        names = [e.name for e in entries]
        options = [_part(entry, own, definitions) for entry in entries]
        definitions[use.__name__] = {"anyOf": [{"enum": names}, *options]}
    verbs = [e for e in registry.entries() if e.kind == "stage"]
    definitions[Stage.__name__] = {
        "anyOf": [
            {"enum": [entry.name for entry in verbs]},
            *(_verb(entry, definitions) for entry in verbs),
        ]
    }
    schema["properties"] |= {
        "extends": {
            "description": "Recipes to start from: packaged names or relative paths.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
        "set": {"type": "object", "description": "Changes by dotted path, inside lists too."},
    }
    schema.pop("required", None)  # a recipe may inherit what is required
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _part(entry: Entry, own: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    given = _settings(entry, definitions)
    return {
        "type": "object",
        "description": entry.summary,
        "properties": {"use": {"const": entry.name}, **given, **own},
        "required": ["use", *_required(entry)],
        "additionalProperties": False,
    }


def _verb(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    main = main_part(entry)
    given = _settings(entry, definitions)
    body: dict[str, Any] = {"type": "object", "properties": given, "additionalProperties": False}
    if main is not None:
        given.pop(main, None)
        part = getattr(entry.params.model_fields[main].annotation, "__name__", "Use")
        body = {"anyOf": [{"$ref": f"#/$defs/{part}"}, {"required": ["use"]}]}
    return {
        "type": "object",
        "description": entry.summary,
        "properties": {entry.name: body},
        "required": [entry.name],
        "additionalProperties": False,
    }


def _settings(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = entry.params.model_json_schema(ref_template="#/$defs/{model}")
    for name, definition in schema.get("$defs", {}).items():
        definitions.setdefault(name, definition)
    return dict(schema.get("properties", {}))


def _required(entry: Entry) -> list[str]:
    return [name for name, field in entry.params.model_fields.items() if field.is_required()]
