"""The pytest plug-in finds parts, takes examples, and leaves other people's `part` alone."""

import os
import subprocess
import sys

MODULE = '''
"""A loss with a setting that has no default, and one that looks across rows."""
from didact import hookimpl

def needy(logprobs, *, beta: float):
    """-beta log p."""
    return -beta * logprobs

def crossing(logprobs):
    """-log p, minus the mean of all rows."""
    return -(logprobs - logprobs.mean())

@hookimpl
def register_losses(register):
    register("needy", needy)
    register("crossing", crossing)
'''
CONFTEST = """
from didact.testing import Example

def pytest_didact_examples():
    return {"loss:needy": Example({"beta": 0.5})}
"""
TESTS = {
    "test_theirs.py": """
import pytest
from didact.testing import check

def test_contract(part):
    check(part)

@pytest.mark.parametrize("part", [1, 2])
def test_own_parameters(part):
    assert part in (1, 2)
""",
    "test_fixture.py": """
import pytest

@pytest.fixture
def part():
    return "mine"

def test_own_fixture(part):
    assert part == "mine"
""",
}


def run(folder, *options):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_parts_are_found_and_held_to_their_promises(tmp_path):
    info = tmp_path / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[didact]\nthing = thing_module\n")
    (tmp_path / "thing_module.py").write_text(MODULE)
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points.didact]\nthing = "thing_module"'
    )
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, text in TESTS.items():
        (tmp_path / name).write_text(text)

    said = run(tmp_path)
    assert "test_contract[loss:needy] PASSED" in said
    assert "test_contract[loss:crossing] FAILED" in said
    assert "looks across rows" in said
    assert said.count("test_own_parameters") == 2 and "test_own_fixture PASSED" in said
    assert "1 failed, 4 passed" in said

    said = run(tmp_path, "--didact-plugin", "thing", "-k", "not test_")
    assert "loss 'crossing' of 'thing': loss does not depend on micro batches" in said
    assert "loss:needy-loss_does_not_depend_on_micro_batches PASSED" in said


def test_a_plug_in_that_is_not_installed_is_said_so(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project.entry-points.didact]\nnope = "nope"')
    (tmp_path / "test_it.py").write_text("def test_contract(part): ...\n")
    said = run(tmp_path)
    assert "no plug-in named 'nope'" in said and "pip install -e ." in said
