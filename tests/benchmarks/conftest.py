"""The benchmark scripts as modules, with everything that they replace put back after a test."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A benchmark script by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (
            getattr(sys.modules[name], "__file__", None)
            and FOLDER in Path(sys.modules[name].__file__).parents
        ):
            del sys.modules[name]


@pytest.fixture
def restored(monkeypatch):
    """Have an attribute put back after the test, whatever a script sets it to."""
    return lambda owner, name: monkeypatch.setattr(owner, name, getattr(owner, name))
