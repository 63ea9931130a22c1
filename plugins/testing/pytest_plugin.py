"""A pytest plug-in: contract tests of whatever a package registers, with or without test code.

`pytest --didact-plugin NAME` asks every part of that plug-in for every promise. Or write

    def test_contract(part):
        didact.testing.check(part)

and `part` runs over the parts of the plug-ins named by the option, or else of those whose entry
points stand in the nearest `pyproject.toml` above the test. What a part's signature does not say
comes from a `pytest_didact_examples` in `conftest.py`: it returns `{"kind:name": Example(...)}`.

Nothing here imports torch until a test asks for it: every pytest run of the environment loads this.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from didact.plugins.testing.part import Part
    from didact.plugins.testing.promises import Promise


class Hooks:
    """What a `conftest.py` may implement."""

    def pytest_didact_examples(self) -> Mapping[str, Any]:
        """Return `{"kind:name": didact.testing.Example(...)}` for parts that need one."""
        return {}


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Offer the hook."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the option."""
    parser.getgroup("didact").addoption(
        "--didact-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="hold every part of this plug-in (entry point or package) to didact's contract tests",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `part`, and for which nobody else makes one, over all parts."""
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    theirs = any("part" in (n.split(",") if isinstance(n, str) else n) for n in given)
    made = "part" in getattr(metafunc, "_arg2fixturedefs", ())  # somebody's fixture of that name
    if "part" not in metafunc.fixturenames or theirs or made:
        return
    names = metafunc.config.getoption("--didact-plugin") or declared(metafunc.definition.path)
    found = [part for name in names for part in parts(metafunc.config, name)]
    metafunc.parametrize("part", found, ids=str)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the contract tests of the plug-ins that the option names."""
    for name in config.getoption("--didact-plugin"):
        contract = Contract.from_parent(session, name=f"didact-plugin={name}")
        items.extend(contract.collect())


def declared(test: Path) -> Sequence[str]:
    """The plug-ins that the nearest `pyproject.toml` above a test declares."""
    for folder in test.parents:
        file = folder / "pyproject.toml"
        project = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        named = project.get("project", {}).get("entry-points", {}).get("didact", {})
        if named:
            return list(named)
    raise pytest.Collector.CollectError(
        f"which plug-in's parts? No pyproject.toml above {test} declares an entry point of the "
        f"group 'didact'; name the plug-in with --didact-plugin NAME."
    )


@cache
def parts(config: pytest.Config, plugin: str) -> Sequence[Part]:
    """The parts of a plug-in with the examples that `conftest.py` gives for them."""
    from didact.core.errors import DidactError
    from didact.plugins.manager import load
    from didact.plugins.testing.part import parts_of

    given: dict[str, Any] = {}
    for one in config.hook.pytest_didact_examples():
        given |= one
    try:
        return list(parts_of(load(), plugin, given))
    except DidactError as error:
        raise pytest.Collector.CollectError(str(error)) from error


class Contract(pytest.Collector):
    """All promises of all parts of one plug-in."""

    def collect(self) -> Iterator[pytest.Item]:
        """One test for each part and promise."""
        from didact.plugins.testing.promises import promises_of

        for part in parts(self.config, self.name.partition("=")[2]):
            for promise in promises_of(part):
                said = f"{part}-{promise.__name__}"
                yield Kept.from_parent(self, name=said, part=part, promise=promise)


class Kept(pytest.Item):
    """One promise of one part."""

    def __init__(self, *, part: Part, promise: Promise, **settings: Any) -> None:
        super().__init__(**settings)
        self.part, self.promise = part, promise

    def runtest(self) -> None:
        """Ask for it."""
        from didact.plugins.testing.promises import kept

        kept(self.part, self.promise)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The broken promise in our words; a traceback only for what is not one."""
        from didact.plugins.testing.part import Broken

        if isinstance(excinfo.value, Broken):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where it belongs."""
        return self.path, None, self.name
