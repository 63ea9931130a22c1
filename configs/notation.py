"""The YAML that recipes are written in: numbers and truth values of YAML 1.2, and `!remove`."""

from __future__ import annotations

import re

import yaml

TAG = "tag:yaml.org,2002:"
KEYS = frozenset({f"{TAG}str", f"{TAG}int", f"{TAG}merge"})
"""The tags that the keys of a recipe may have."""


class _Remove:
    def __repr__(self) -> str:
        return "!remove"


REMOVE = _Remove()


class Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-6` is a float, `on` a word, `012` twelve and `1:30` no number."""


def whole(text: str) -> int:
    """A whole number as it is written: `12`, `0x1f`, `0o17`."""
    return int(text, 0 if text[:2] in ("0x", "0o") else 10)


OLD = {f"{TAG}{kind}" for kind in ("float", "bool", "int", "timestamp")}
Loader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in pairs if tag not in OLD]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    f"{TAG}int",
    re.compile(r"^[-+]?[0-9]+$|^0x[0-9a-fA-F]+$|^0o[0-7]+$"),
    list("-+0123456789"),
)
Loader.add_implicit_resolver(
    f"{TAG}float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)
Loader.add_implicit_resolver(f"{TAG}bool", re.compile(r"^(true|false)$"), list("tf"))
Loader.add_constructor(f"{TAG}int", lambda loader, node: whole(node.value))
Loader.add_constructor("!remove", lambda loader, node: REMOVE)
