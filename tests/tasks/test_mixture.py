"""Mixtures: exact proportions, every problem, and what is refused."""

from collections import Counter

import pytest

from didact.core.errors import RecipeError
from didact.feedback.tasks.arithmetic import Arithmetic
from didact.feedback.tasks.files import json_lines
from didact.feedback.tasks.letters import Letters
from didact.feedback.tasks.mixture import Mixture

LETTERS, SUMS = Letters(size=30), Arithmetic(size=10)


def test_without_weights_every_problem_comes_once():
    mixture = Mixture({"letters": LETTERS, "sums": SUMS})
    assert [p.answer for p in mixture] == [p.answer for p in [*LETTERS, *SUMS]]
    assert [p.id for p in mixture][29:31] == [f"letters/{LETTERS[29].id}", f"sums/{SUMS[0].id}"]
    assert [p.metadata["task"] for p in mixture] == ["letters"] * 30 + ["sums"] * 10


def test_weights_are_met_exactly_in_every_block():
    mixture = Mixture({"letters": LETTERS, "sums": SUMS}, {"letters": 0.3, "sums": 0.7}, size=100)
    names = [problem.metadata["task"] for problem in mixture]
    for begin in range(0, 100, 10):
        assert Counter(names[begin : begin + 10]) == {"letters": 3, "sums": 7}
    assert len({tuple(names[begin : begin + 10]) for begin in range(0, 100, 10)}) > 5


def test_each_task_is_walked_in_its_own_order_and_begins_again():
    mixture = Mixture({"letters": LETTERS, "sums": SUMS}, {"letters": 1, "sums": 1}, size=60)
    sums = [problem.id for problem in mixture if problem.metadata["task"] == "sums"]
    assert sums == [f"sums/{problem.id}" for problem in SUMS] * 3


def test_weights_that_need_a_long_block_are_rounded_to_a_thousandth():
    mixture = Mixture({"a": LETTERS, "b": SUMS}, {"a": 1.23456, "b": 7.65432}, size=10)
    assert mixture.shares == (139, 861)  # 1.23456 / 8.88888 = 0.13889


def test_the_same_index_gives_the_same_problem():
    one, other = (Mixture({"a": LETTERS, "b": SUMS}, {"a": 2, "b": 1}, size=50) for _ in range(2))
    assert list(one) == list(other)


@pytest.mark.parametrize(
    ("tasks", "weights", "message"),
    [
        ({}, None, "at least one"),
        ({"letters": LETTERS}, {"leters": 1}, "no task named 'leters'. Did you mean 'letters'"),
        ({"a": LETTERS, "b": SUMS}, {"a": 1}, "task 'b' has none"),
        ({"a": LETTERS}, {"a": 0}, "above 0"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused(tasks, weights, message):
    with pytest.raises(RecipeError, match=message):
        Mixture(tasks, weights)


def test_what_its_tasks_left_out_is_told_by_the_mixture(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "q", "answer": "a"}\n{\n', encoding="utf-8")
    mixture = Mixture({"rows": json_lines(str(file), skip_bad=True), "sums": SUMS})
    (line,) = mixture.skipped
    assert line.startswith(f"{file}:2: is no JSON")
    assert mixture.places == {"rows/rows/0": f"{file}:1"}


def test_problems_of_files_with_the_same_name_are_never_taken_for_one_another(tmp_path):
    files = [tmp_path / name / "train.jsonl" for name in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        file.write_text(f'{{"question": "{file.parent.name}?", "answer": "1"}}\n')
    one, two = Mixture({file.parent.name: json_lines(str(file)) for file in files})
    assert (one.id, two.id) == ("one/train/0", "two/train/0")
