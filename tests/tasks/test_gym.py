"""Reasoning-gym as a task: its items, its scores, and what is said when it is missing."""

import json
import sys
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError, RewardError
from didact.core.types import Problem, Prompt, Trajectory
from didact.feedback.tasks.gym import Gym, gym_answer

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum" / "reasoning_gym_scores.json"
CASES = json.loads(GOLDEN.read_text())["cases"]


def said(problem: Problem, text: str, truncated: bool = False) -> Trajectory:
    empty = torch.empty(0, dtype=torch.int64)
    return Trajectory(
        Prompt(problem.id, empty, problem), empty, empty.bool(), "policy", text, truncated
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['dataset']}-{case['idx']}")
def test_items_and_scores_agree_with_reasoning_gym_0_1_25(case):
    pytest.importorskip("reasoning_gym")
    problem = Gym(case["dataset"], seed=case["seed"])[case["idx"]]
    assert problem.question.startswith(case["question_prefix"])
    assert problem.answer == case["answer"]
    scores = case["scores"]
    assert gym_answer(said(problem, case["answer"]), tag=None) == scores["oracle"]
    assert gym_answer(said(problem, ""), tag=None) == scores["empty"]
    assert gym_answer(said(problem, "no block at all")) == scores["none"]
    tagged = f"so <answer>1</answer>, no: <answer>\n{case['answer']} </answer>"
    assert gym_answer(said(problem, tagged)) == scores["oracle"]
    assert gym_answer(said(problem, tagged), exact=True) == 1.0
    assert gym_answer(said(problem, ""), exact=True) == 0.0
    assert gym_answer(said(problem, tagged, truncated=True)) == 0.0


def test_items_are_stable_and_splits_use_other_seeds():
    pytest.importorskip("reasoning_gym")
    train, test = (Gym("countdown", split=split, size=50) for split in ("train", "test"))
    assert list(train) == list(Gym("countdown", size=50))
    assert not {p.question for p in train} & {p.question for p in test}
    assert not {p.id for p in train} & {p.id for p in test}
    assert json.loads(json.dumps(train[0].metadata)) == train[0].metadata


def test_settings_reach_the_data_set():
    pytest.importorskip("reasoning_gym")
    task = Gym("countdown", {"min_numbers": 3, "max_numbers": 3}, template="{question}!")
    assert task[0].metadata["difficulty"]["numbers"] == [3, 3]
    assert task[0].question.endswith("!")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cuntdown", None, "no data set named 'cuntdown'. Did you mean 'countdown'"),
        ("countdown", {"numbers": 3}, "unexpected keyword argument 'numbers'"),
        ("countdown", {"min_numbers": 9, "max_numbers": 3}, "max_numbers must be >= min_numbers"),
    ],
)
def test_a_wrong_name_or_setting_says_what_is_possible(name, settings, message):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(RecipeError, match=message):
        Gym(name, settings)


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(RecipeError, match=r"pip install 'didact\[gym\]'"):
        Gym("countdown", seed=123456)


def test_a_problem_of_another_task_has_no_gym_score():
    with pytest.raises(RewardError, match="is not of the task 'gym'"):
        gym_answer(said(Problem("p", "q"), "a"))
