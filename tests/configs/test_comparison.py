"""Comparison files: the cells they come to, and what a wrong one says."""

import pytest
from comparisons import comparison

from didact.configs.compare import run_comparison
from didact.configs.comparison import cells, load_comparison
from didact.configs.document import locate
from didact.configs.estimate import estimate
from didact.configs.load import load_recipe
from didact.core.errors import RecipeError
from didact.plugins.manager import load


def test_the_matched_come_after_those_they_match(tmp_path):
    file = comparison(
        tmp_path, "  Half: {recipe: sft, match: {axis: steps, of: One}}\n  One: sft\n"
    )
    assert [c.label for c in cells(load_comparison(file), tmp_path)] == [
        "One",
        "One",
        "Half",
        "Half",
    ]
    assert list(estimate(cells(load_comparison(file), tmp_path)))


@pytest.mark.parametrize(
    ("methods", "more", "message"),
    [
        ("  One: sftt\n", "", "no recipe named 'sftt'. Did you mean 'sft'"),
        ("  One: sft\n", "baseline: Two\n", "mine.yaml: no method named 'Two'"),
        ("  One: {recipe: sft, sett: {}}\n", "", "methods.One.sett: no key named 'sett'"),
        ("  One: {recipe: sft, set: {stepz: 2}}\n", "", "stepz: no key named 'stepz'"),
        ("  A: {recipe: sft, match: {axis: steps, of: B}}\n", "", "no method named 'B'"),
        ("  One: sft\n", "axis: hours\n", "axis: "),
        ("  One: {recipe: sft, set: {seed: 3}}\n", "", "methods.One.set: .* leave 'seed' out"),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(tmp_path, methods, more, message):
    file = comparison(tmp_path, methods, more)
    with pytest.raises(RecipeError, match=message):
        run_comparison(file, tmp_path / "out")


def test_an_unknown_comparison_or_method_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"no comparison named 'quickstat'. Did you mean"):
        load_comparison("quickstat")
    file = comparison(tmp_path, "  One: sft\n")
    with pytest.raises(RecipeError, match=r"no method named 'Onee'. Did you mean 'One'"):
        run_comparison(file, tmp_path / "out", only=["Onee"])


def test_a_recipe_and_a_comparison_are_not_taken_for_each_other(tmp_path):
    registry = load(installed=False)
    with pytest.raises(RecipeError, match=r"is a comparison.*`didact compare quickstart`"):
        load_recipe("quickstart", registry)
    with pytest.raises(RecipeError, match=r"mine.yaml:.*comparison.*`didact compare`"):
        load_recipe(comparison(tmp_path, "  One: sft\n"), registry)
    with pytest.raises(RecipeError, match=r"is a recipe.*`didact train grpo`"):
        load_comparison("grpo")
    with pytest.raises(RecipeError, match=r"grpo.yaml: this is a recipe.*`didact train`"):
        load_comparison(str(locate("grpo")))


def test_the_packaged_comparisons_are_valid(tmp_path):
    for name in ("quickstart", "relift_claims"):
        assert cells(load_comparison(name), tmp_path)


def test_a_shared_mapping_is_not_shared_between_methods(tmp_path):
    more = "  One: sft\n  Two: {recipe: sft, set: {task.wrong: 0.3, evaluation.samples: 4}}\n"
    file = comparison(tmp_path, more)
    text = (
        (tmp_path / "mine.yaml").read_text().replace("set:\n", "set:\n  task: {use: letters}\n", 1)
    )
    (tmp_path / "mine.yaml").write_text(text)
    one, *_, two = cells(load_comparison(file), tmp_path)
    assert "wrong" not in one.document.data["task"]
    assert one.document.data["evaluation"]["samples"] == 2
    assert two.document.data["task"]["wrong"] == 0.3


@pytest.mark.parametrize(
    ("methods", "more", "message"),
    [
        ("  A+: sft\n  A-: sft\n", "", "would share the folder 'a'"),
        ("  A: sft\n", "seeds: [1, 1]\n", "seeds must differ"),
    ],
)
def test_what_would_mix_two_runs_is_refused(tmp_path, methods, more, message):
    file = comparison(tmp_path, methods, more)
    if more:
        text = (tmp_path / "mine.yaml").read_text().replace("seeds: [0, 1]\n", "")
        (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_comparison(file)


def test_seeds_of_the_command_line_must_differ_too(tmp_path):
    with pytest.raises(RecipeError, match="seeds must differ"):
        run_comparison(comparison(tmp_path, "  A: sft\n"), tmp_path / "out", seeds=[1, 1])
