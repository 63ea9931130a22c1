"""The examples are as short as a plug-in should be: a reward of 10 lines, a method of 150."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def lines(text, name):
    """How many lines a function or class takes, docstring included."""
    (node,) = [n for n in ast.parse(text).body if getattr(n, "name", None) == name]
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize(
    ("part", "hook", "most"),
    [("variety", "register_rewards", 10), ("spread", "register_losses", 35)],
)
def test_a_part_and_its_registration_are_short(part, hook, most):
    text = (EXAMPLES / "didact-spread" / "didact_spread" / "__init__.py").read_text()
    assert lines(text, part) + lines(text, hook) <= most


def test_an_advantage_is_short():
    text = (ROOT / "plugins" / "scaffold" / "advantage.py.txt").read_text().replace("@part@", "it")
    assert lines(text, "it") + lines(text, "register_advantages") <= 25


def test_a_whole_method_with_its_recipe_is_short():
    folder = EXAMPLES / "didact-dapo-plus" / "didact_dapo_plus"
    written = [path.read_text() for path in (folder / "__init__.py", folder / "dapo_plus.yaml")]
    assert 60 <= sum(len(text.splitlines()) for text in written) <= 150


def test_the_examples_import_only_what_is_public():
    for path in EXAMPLES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("didact."):
                assert node.module == "didact.testing", path
