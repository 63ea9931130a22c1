"""Compositions of string functions: the authors' outputs and rewards, splits and demonstrations."""

import json
import re
from pathlib import Path

import pytest
import torch

from didact.core.errors import DataError, RecipeError
from didact.core.types import Problem, Prompt, Trajectory
from didact.feedback.tasks.atoms import ATOMS
from didact.feedback.tasks.compositions import Compositions, run
from didact.rewards.procedural import compositions_answer, procedural_answer

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum" / "fg_string_task.json"
CASES = json.loads(GOLDEN.read_text())["cases"][0]


def said(problem: Problem, text: str, truncated: bool = False) -> Trajectory:
    empty = torch.empty(0, dtype=torch.int64)
    return Trajectory(
        Prompt(problem.id, empty, problem), empty, empty.bool(), "policy", text, truncated
    )


@pytest.mark.parametrize("case", CASES["atomic"], ids=lambda case: case["name"])
def test_every_function_does_what_the_released_one_does(case):
    atom = ATOMS[int(case["id"].removeprefix("func_"))]
    assert atom.apply(*case["args"]) == case["out"]
    assert atom.held_out == (case["split"] == "eval")


@pytest.mark.parametrize("case", CASES["generated"], ids=lambda case: case["expr"])
def test_released_programs_return_what_the_authors_saw(case):
    expression = case["stage2_code"].partition("return ")[2]
    assert run(expression, case["input"]) == case["output"]


@pytest.mark.parametrize("case", CASES["reward_cases"], ids=lambda case: case["response"])
def test_the_reward_agrees_with_the_released_one(case):
    problem = Problem("p", "q", "abba", metadata={"family": "compositions"})
    score, accuracy = case["score_acc"]
    assert compositions_answer(said(problem, case["response"]), malformed=-1.0) == score
    assert procedural_answer(said(problem, case["response"])) == accuracy


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_demonstrations_are_right_and_use_the_functions_of_their_split(split):
    for problem in Compositions(split, levels=[1, 2, 3, 5], size=300):
        assert compositions_answer(said(problem, problem.demonstrations[0])) == 1.0
        assert compositions_answer(said(problem, problem.demonstrations[0], truncated=True)) == 0.0
        numbers = {int(n) for n in re.findall(r"func_(\d+)\(", problem.question)}
        assert all(ATOMS[number].held_out == (split == "test") for number in numbers)
        steps = problem.demonstrations[0].split("\n")[:-1]
        for work, value in (step.split(" = ") for step in steps):
            assert run(work, "") == run(value, "")


def test_no_problem_is_in_two_splits():
    seen = [
        {p.id.split("/", 3)[3] for p in Compositions(split, levels=[1], size=3000)}
        for split in ("train", "validation", "test")
    ]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_the_same_index_gives_the_same_problem():
    assert Compositions()[77] == Compositions()[77]
    assert Compositions()[77] != Compositions(seed=1)[77]


def test_a_described_question_says_what_its_functions_do():
    for problem in Compositions(described=True, size=50):
        for number in re.findall(r"func_(\d+)\(", problem.question):
            assert f"# func_{number} {ATOMS[int(number)].says}\n" in problem.question


@pytest.mark.parametrize("expression", ["__import__('os')", "func_99(x)", "x.format()", "y"])
def test_an_expression_runs_nothing_else(expression):
    with pytest.raises(DataError, match="is not allowed"):
        run(expression, "abc")


def test_a_template_with_open_braces_is_refused():
    with pytest.raises(RecipeError, match="write other braces twice"):
        Compositions(template='{expression} {input} {"output"}')
