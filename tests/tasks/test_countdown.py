"""Countdown: solvable problems, true backtracks, and exact evaluation of expressions."""

import json
import re
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.types import Problem, Prompt, Trajectory
from didact.feedback.tasks import countdown
from didact.feedback.tasks.countdown import Countdown, ErrorPath
from didact.rewards.procedural import (
    countdown_answer,
    countdown_tagged,
    reaches,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum"


def said(problem: Problem, text: str, truncated: bool = False) -> Trajectory:
    empty = torch.empty(0, dtype=torch.int64)
    prompt = Prompt(problem.id, empty, problem)
    return Trajectory(prompt, empty, empty.bool(), "policy", text, truncated)


def test_every_countdown_problem_is_solvable_within_its_rules():
    for problem in Countdown(levels=[2, 3, 4, 5, 6], size=500):
        numbers, target = problem.metadata["numbers"], problem.metadata["target"]
        assert len(numbers) == problem.metadata["level"]
        assert reaches(problem.answer, numbers, target) and target not in numbers
        *steps, expression = problem.demonstrations[0].split("\n")
        for left, right in (step.split("=") for step in steps):
            assert eval(left) == int(right) and 1 <= int(right) <= 999
        assert expression == problem.answer and len(steps) == len(numbers) - 1


def test_every_backtrack_is_mechanically_true():
    attempts = []
    for problem in Countdown(levels=[3, 4], backtracks=3, size=200):
        target, trace = problem.metadata["target"], problem.demonstrations[0].split("\n")
        path: list[str] = []
        for line in trace[:-1]:
            found = re.fullmatch(r"(\d+) is not (\d+), back to (?:step (\d+)|the start)", line)
            if found:
                assert path[-1].endswith(f"={found[1]}") and int(found[2]) == target
                assert int(found[1]) != target
                path = path[: int(found[3] or 0)]
            else:
                left, right = line.split("=")
                assert eval(left) == int(right)
                path.append(line)
        assert path[-1].endswith(f"={target}") and len(path) == problem.metadata["level"] - 1
        assert countdown_answer(said(problem, problem.demonstrations[0])) == 1.0
        attempts.append(sum("back to" in line for line in trace))
    # Fewer where other operators give no whole numbers, which is rare.
    assert set(attempts) <= {1, 2, 3} and attempts.count(3) > 150


def test_a_backtracking_trace_has_the_steps_of_the_released_one():
    golden = json.loads((GOLDEN / "backtracking_countdown.json").read_text())
    case = golden["cases"][0]["trajectory"]
    # ((5 + 3) * 2) - 1 over the numbers 5, 3, 2, 1; the wrong attempt adds where it multiplies.
    moves = [("+", 0, 1), ("*", 4, 2), ("-", 5, 3)]
    wrong = [("+", 0, 1), ("+", 4, 2), ("-", 5, 3)]
    trace = countdown.demonstrate(
        [5, 3, 2, 1], moves, [ErrorPath(case["recovery_step"] + 1, wrong)]
    )
    equation = re.compile(r"\d+ ?[-+*/] ?\d+ ?= ?\d+")
    ours = [found.replace(" ", "") for found in equation.findall(trace)]
    assert ours == [found.replace(" ", "") for found in equation.findall(case["out"])]
    assert f"{case['error_value']} is not 15, back to step {case['recovery_step'] + 1}" in trace


def test_the_reward_for_form_and_value_agrees_with_the_released_one():
    golden = json.loads((GOLDEN / "backtracking_countdown.json").read_text())["cases"][0]
    problem = Problem("p", "q", metadata=golden["ground_truth"])
    header = "<|im_start|>assistant\n"
    cases = [c for c in golden["reward_cases"] if c["response"].startswith(header)]
    assert len(cases) == 7  # the eighth only lacks the header, which is no part of our responses
    for case in cases:
        text = case["response"].removeprefix(header)
        assert countdown_tagged(said(problem, text)) == case["score"], text


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        ("2*3+4", True), (" (2*3) + 4 ", True), ("4+3\u00d72", True), ("-(0-2*3)+4", False),
        ("2*3+4=10", True), ("2*3+4=11", False), ("4*3-2", True), ("2+3+4", False), ("6+4", False),
        ("2*3+4+0", False), ("2*3+4*1", False), ("10", False), ("", False), ("2**3+4", False),
        ("4/0", False), ("2.0*3+4", False), ("x+2", False), ("__import__('os')", False),
        ("(" * 300 + "2*3+4" + ")" * 300, False), ("2*3+4=", False), ("4-(2*-3)", True),
        ("02*3+4", False), ("2*3+4\n", True), ("9**9**9**9", False), ("4//1", False),
    ],
)  # fmt: skip
def test_an_expression_counts_only_if_it_is_exact(expression, right):
    assert reaches(expression, [2, 3, 4], 10) is right


def test_fractions_on_the_way_are_exact():
    assert reaches("8/(3-8/3)", [8, 3, 8, 3], 24)
    assert not reaches("1/3*3", [1, 3, 3], 2)


def test_a_countdown_template_must_name_numbers_and_target():
    assert Countdown(template="Make {target} of {numbers}.")[0].question.startswith("Make ")
    with pytest.raises(RecipeError, match="must name"):
        Countdown(template="Make {target}.")
    with pytest.raises(RecipeError, match="write other braces twice"):
        Countdown(template="{numbers} {target} \\boxed{}")
