"""Made-up runs, as a training leaves them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "synthetic_runs.py"


def _load() -> ModuleType:
    if "synthetic_runs" not in sys.modules:
        found = importlib.util.spec_from_file_location("synthetic_runs", FILE)
        assert found and found.loader
        sys.modules["synthetic_runs"] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules["synthetic_runs"])
    return sys.modules["synthetic_runs"]


@pytest.fixture(scope="session")
def made() -> ModuleType:
    return _load()


@pytest.fixture(scope="session")
def comparison(made, tmp_path_factory) -> Path:
    """Two methods and three seeds; the second learns level 4 from demonstrations."""
    kinds = {
        "grpo": made.Kind((0.1, 0.2, 0.1, 0.0)),
        "relift": made.Kind((0.1, 0.2, 0.2, 0.5), demonstrations=8),
    }
    folder = tmp_path_factory.mktemp("comparison")
    return made.make_comparison(folder, kinds, (0, 1, 2), steps=20, questions=80, every=10)


@pytest.fixture
def run(made, tmp_path) -> Path:
    return made.make_run(tmp_path / "grpo", "grpo", made.Kind(), steps=20, questions=40, every=10)
