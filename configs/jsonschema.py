"""The JSON Schema of recipes, built from the signatures of all registered parts, for editors.

A recipe file may inherit, so nothing is required of it that could come from `extends`: a part may
be given by settings alone, without its `use:`. What no inheritance can mend is refused: names of
parts, settings and keys that do not exist, and values of the wrong type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from didact.configs.document import ONE_OR_MANY
from didact.configs.schema import LossSpec, Recipe, RuleSpec
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
    RuleSpec,
)
SHARED = frozenset({*(use.__name__ for use in USES), Stage.__name__})
Json = dict[str, Any]


def recipe_schema(registry: Registry) -> Json:
    """A JSON Schema (2020-12) in which every `use:` completes to the parts that exist."""
    schema = Recipe.model_json_schema(ref_template="#/$defs/{model}")
    definitions: Json = schema.setdefault("$defs", {})
    for definition in (schema, *definitions.values()):
        definition.pop("required", None)
    own = {use: _own(definitions.get(use.__name__, {})) for use in USES}
    for use in USES:
        options = _options(registry, use.kind, own[use], definitions)
        definitions[use.__name__] = {"anyOf": list(options)}
    verbs = [e for e in registry.entries() if e.kind == "stage"]
    definitions[Stage.__name__] = {
        "anyOf": [
            {"enum": [entry.name for entry in verbs]},
            *(_verb(entry, registry, definitions) for entry in verbs),
        ]
    }
    schema["properties"] |= {
        "extends": {
            "description": "Recipes to start from: names, or paths relative to this file.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
        "set": {"type": "object", "description": "Changes by dotted path, inside lists too."},
    }
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    _one_or_many(definitions)
    written: Json = _written(whole)
    return written


def _own(definition: Mapping[str, Any]) -> Json:
    """The keys that a recipe writes beside a part's settings."""
    properties = definition.get("properties", {})
    return {key: value for key, value in properties.items() if key not in ("use", "params")}


def _options(
    registry: Registry, kind: str, own: Json, definitions: Json, required: bool = True
) -> Iterable[Json]:
    """A part as its bare name, as one of the parts with its settings, or as settings alone."""
    entries = [entry for entry in registry.entries() if entry.kind == kind]
    yield {"enum": [entry.name for entry in entries]}
    yield {"type": "string", "pattern": "^[^/]+/[^/]+$", "description": "plug-in/name"}
    every: dict[str, list[Any]] = {}
    for entry in entries:
        given = _settings(entry, definitions)
        for key, value in given.items():
            every.setdefault(key, []).append(value)
        owners = {entry.name, f"{entry.origin}/{entry.name}", f"{entry.package}/{entry.name}"}
        yield {
            "type": "object",
            "description": entry.summary,
            "properties": {"use": {"enum": sorted(owners)}, **given, **own},
            "required": ["use", *(_required(entry) if required else ())],
            "additionalProperties": False,
        }
    yield {
        "type": "object",
        "description": f"Settings of the inherited {kind}.",
        "properties": {**{key: {"anyOf": values} for key, values in every.items()}, **own},
        "additionalProperties": False,
    }


def _verb(entry: Entry, registry: Registry, definitions: Json) -> Json:
    """A stage with its settings; those of its main part stand beside them."""
    main = main_part(entry)
    given = _settings(entry, definitions)
    body: Json = {"type": "object", "properties": given, "additionalProperties": False}
    if main is not None:
        own = {key: value for key, value in given.items() if key != main}
        use = entry.params.model_fields[main].annotation
        kind = use.kind if isinstance(use, type) and issubclass(use, Use) else ""
        body = {"anyOf": [body, *_options(registry, kind, own, definitions)]}
    return {
        "type": "object",
        "description": entry.summary,
        "properties": {entry.name: body},
        "required": [entry.name],
        "additionalProperties": False,
    }


def _settings(entry: Entry, definitions: Json) -> Json:
    """The properties of a part's settings; what they refer to is kept apart for each plug-in."""
    schema = entry.params.model_json_schema(ref_template=f"#/$defs/{entry.origin}.{{model}}")
    for name, definition in schema.get("$defs", {}).items():
        shared = {"$ref": f"#/$defs/{name}"}
        kept = shared if name in SHARED else definition
        definitions.setdefault(f"{entry.origin}.{name}", kept)
    return dict(schema.get("properties", {}))


def _required(entry: Entry) -> list[str]:
    return [name for name, field in entry.params.model_fields.items() if field.is_required()]


def _one_or_many(definitions: Json) -> None:
    """Where a recipe may write one item for a list of one."""
    losses = [definitions[LossSpec.__name__], definitions["PhaseSpec"]]
    for definition in losses:
        for holder in (definition, *definition.get("anyOf", ())):
            properties = holder.get("properties", {})
            for key in ONE_OR_MANY & properties.keys():
                many = properties[key]
                if "items" in many:
                    properties[key] = {"anyOf": [many, many["items"]]}


BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}


def _written(value: Any) -> Any:
    """In JSON Schema's words: bounds of numbers that may be schedules; no infinite defaults."""
    if isinstance(value, Mapping):
        return {
            BOUNDS.get(key, key) if isinstance(item, int | float) else key: _written(item)
            for key, item in value.items()
            if not (isinstance(item, float) and not isfinite(item))
        }
    if isinstance(value, list):
        return [_written(item) for item in value]
    return value
