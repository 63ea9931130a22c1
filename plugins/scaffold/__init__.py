"""`didact new-plugin`: a package with one part, its recipe and its tests, ready to be installed."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from didact.core.errors import PluginError, unknown
from didact.plugins.registry import Registry

KINDS = (
    "loss",
    "advantage",
    "reward",
    "critic",
    "source",
    "sampler",
    "buffer",
    "environment",
    "method",
)
NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
PREFIX = "didact-"


@dataclass(frozen=True)
class Names:
    """What a new plug-in and everything in it is called.

    Attributes:
        package: the distribution, `didact-my-loss`.
        part: the part, the recipe and the entry point, `my_loss`.
    """

    package: str
    part: str

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")

    @classmethod
    def of(cls, name: str) -> Names:
        """From `my-loss`, `my_loss` or `didact-my-loss`.

        Raises:
            PluginError: it cannot be the name of a package.
        """
        bare = name.removeprefix(PREFIX)
        if not NAME.fullmatch(bare):
            raise PluginError(
                f"'{name}' cannot be the name of a plug-in; use small letters, digits and single "
                f"hyphens, beginning with a letter, e.g. 'my-loss'."
            )
        return cls(PREFIX + bare.replace("_", "-"), bare.replace("-", "_"))


def new_plugin(
    name: str, kind: str, folder: Path, registry: Registry, recipes: Collection[str] = ()
) -> Path:
    """Write a plug-in package into `folder`; returns where it is.

    Args:
        recipes: names of recipes that exist, which the new one must not have.

    Raises:
        PluginError: the kind or name will not do, a part has that name, or the place is taken.
    """
    if kind not in KINDS:
        raise PluginError(unknown("kind of plug-in", kind, KINDS))
    names = Names.of(name)
    for entry in registry.entries():
        if entry.name == names.part and entry.kind == ("loss" if kind == "method" else kind):
            raise PluginError(
                f"a {entry.kind} named '{names.part}' exists already, in '{entry.origin}'; "
                f"choose another name."
            )
    if names.part in recipes:
        raise PluginError(f"a recipe named '{names.part}' exists already; choose another name.")
    home = folder / names.package
    if home.exists():
        raise PluginError(f"{home} exists already; remove it, or choose another name or --out.")
    for path, text in written(names, kind).items():
        target = home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return home


def written(names: Names, kind: str) -> dict[str, str]:
    """The files of a new package by their path, filled in from the templates beside this file."""
    paths = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{names.module}/__init__.py": f"{kind}.py.txt",
        f"{names.module}/{names.part}.yaml": f"{kind}.yaml.txt",
        f"tests/test_{names.part}.py": "test.py.txt",
    }
    made = {path: _filled(template, names, kind) for path, template in paths.items()}
    return {**made, f"{names.module}/py.typed": ""}


def _filled(template: str, names: Names, kind: str) -> str:
    text = files(__name__).joinpath(template).read_text(encoding="utf-8")
    words = {
        "package": names.package,
        "module": names.module,
        "part": names.part,
        "Class": "".join(word.title() for word in names.part.split("_")),
        "kind": kind,
    }
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)
