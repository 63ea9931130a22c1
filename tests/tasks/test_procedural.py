"""The procedural families: rules, levels, splits, demonstrations and their exact verifiers."""

import re
from itertools import product

import pytest
import torch

from didact.core.errors import RecipeError, RewardError
from didact.core.protocols import Failed
from didact.core.types import Problem, Prompt, Trajectory
from didact.feedback.tasks.arithmetic import Arithmetic
from didact.feedback.tasks.countdown import Countdown
from didact.feedback.tasks.letters import (
    Letters,
)
from didact.rewards.procedural import (
    arithmetic_answer,
    countdown_answer,
    countdown_tagged,
    letters_answer,
    procedural_answer,
)

FAMILIES = {Letters: letters_answer, Arithmetic: arithmetic_answer, Countdown: countdown_answer}
LEVELS = {Letters: [1, 2, 3, 4, 5], Arithmetic: [1, 2, 3, 4, 5, 12], Countdown: [2, 3, 4, 5, 8]}
SPLITS = ["train", "validation", "test"]


def said(problem: Problem, text: str, truncated: bool = False) -> Trajectory:
    empty = torch.empty(0, dtype=torch.int64)
    prompt = Prompt(problem.id, empty, problem)
    return Trajectory(prompt, empty, empty.bool(), "policy", text, truncated)


def content(problem: Problem) -> str:
    """What the problem is, without split and level: operands in order where order is free."""
    if problem.metadata["family"] == "arithmetic":
        left, operator, right = re.fullmatch(r"(\d+)(\D)(\d+)\n", problem.question).groups()
        return operator + ",".join(sorted((left, right)))
    if problem.metadata["family"] == "countdown":
        return f"{sorted(problem.metadata['numbers'])}={problem.metadata['target']}"
    return problem.question.split(":")[1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", [0, 1, 17, 999_999])
def test_the_same_index_gives_the_same_problem(family, index):
    assert family()[index] == family()[index]
    assert family(wrong=0.5)[index] == family(wrong=0.5, size=2_000_000)[index]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_gives_other_problems(family):
    one, other = (
        [p.question for p in family(seed=seed, levels=LEVELS[family][2:3], size=50)]
        for seed in (0, 1)
    )
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 5


@pytest.mark.parametrize("family", FAMILIES)
def test_no_problem_is_in_two_splits(family):
    easy = LEVELS[family][:2]
    seen = {
        split: {content(p) for p in family(split=split, levels=easy, size=3000)} for split in SPLITS
    }
    for one, other in product(SPLITS, SPLITS):
        assert one == other or not seen[one] & seen[other]
    ids = [{p.id for p in family(split=split, size=500)} for split in SPLITS]
    assert len(set().union(*ids)) == sum(map(len, ids))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_demonstration_is_right_and_every_wrong_one_is_not(family, split):
    verify = FAMILIES[family]
    task = family(split=split, levels=LEVELS[family], wrong=0.5, size=500)
    for problem in task:
        right = problem.metadata["demonstration_correct"]
        trajectory = said(problem, problem.demonstrations[0])
        assert verify(trajectory) == procedural_answer(trajectory) == float(right)
    share = sum(not p.metadata["demonstration_correct"] for p in task) / len(task)
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_demonstrations_leave_question_and_answer_as_they_are(family):
    for right, wrong in zip(family(size=100), family(size=100, wrong=1.0), strict=True):
        assert (right.id, right.question, right.answer) == (wrong.id, wrong.question, wrong.answer)
        assert right.demonstrations != wrong.demonstrations


@pytest.mark.parametrize("family", FAMILIES)
def test_levels_take_turns_and_a_mix_is_drawn(family):
    one, two, three = LEVELS[family][:3]
    turns = [p.metadata["level"] for p in family(levels=[two, one], size=6)]
    assert turns == [two, one] * 3
    drawn = [p.metadata["level"] for p in family(mix={one: 3, two: 1, three: 0}, size=2000)]
    assert 0.70 < drawn.count(one) / 2000 < 0.80
    assert drawn.count(three) == 0


def test_the_answer_of_arithmetic_is_python_s():
    for problem in Arithmetic(levels=[1, 2, 3, 6], size=600):
        assert problem.answer == str(eval(problem.question))
        digits = [len(n) for n in re.findall(r"\d+", problem.question)]
        assert max(digits) <= problem.metadata["level"]
        assert not problem.answer.startswith("-")


def test_every_line_of_an_arithmetic_demonstration_is_true():
    for problem in Arithmetic(levels=[1, 2, 3, 6], size=600):
        *steps, end = problem.demonstrations[0].split("\n")
        assert all(eval(left) == int(right) for left, right in (s.split("=") for s in steps))
        assert end == f"={problem.answer}"


@pytest.mark.parametrize(
    ("left", "operation", "right", "text"),
    [
        (47, "+", 85, "7+5+0=12\n4+8+1=13\n=132"),
        (52, "-", 47, "12-7-0=5\n5-4-1=0\n=5"),
        (47, "*", 85, "7*5+0=35\n4*5+3=23\n47*5=235\n7*8+0=56\n4*8+5=37\n47*80=3760\n"
         "235+3760=3995\n=3995"),
    ],
)  # fmt: skip
def test_carries_and_borrows_are_written_down(left, operation, right, text):
    from didact.feedback.tasks.arithmetic import demonstrate

    assert demonstrate(left, operation, right) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_answer_that_was_cut_off_is_wrong(family):
    problem = family()[0]
    assert FAMILIES[family](said(problem, problem.demonstrations[0], truncated=True)) == 0.0


def test_a_verifier_refuses_problems_that_are_not_its_own():
    with pytest.raises(RewardError, match=r"'p': no metadata named 'numbers'"):
        countdown_answer(said(Problem("p", "q", "a"), "1"))
    with pytest.raises(RewardError, match="Did you mean 'letters'"):
        procedural_answer(said(Problem("p", "q", "a", metadata={"family": "leters"}), "1"))
    with pytest.raises(RewardError, match="has no answer in text: 3"):
        arithmetic_answer(said(Problem("p", "q", 3), "=3"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "tets"}, "no split named 'tets'. Did you mean 'test'"),
        ({"levels": [99]}, "there is no level 99"),
        ({"levels": []}, "give at least one of the levels"),
        ({"mix": {}}, "give at least one of the levels"),
        ({"mix": {2: -1.0, 3: 2.0}}, "weights >= 0"),
        ({"size": 0}, "'size' is 0"),
        ({"wrong": 1.5}, "'wrong' is 1.5"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_settings_that_mean_nothing_are_refused(family, settings, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        family(**settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_index_outside_of_the_task_ends_iteration(family):
    assert len(list(family(size=3))) == len(family(size=3)) == 3
    with pytest.raises(IndexError, match="the task has 3"):
        family(size=3)[-1]


def test_drawing_problems_leaves_the_global_generator_alone():
    import random

    random.seed(0)
    before = random.getstate()
    for family in FAMILIES:
        family(wrong=0.5)[3]
    assert random.getstate() == before


@pytest.mark.parametrize(
    "verifier",
    [letters_answer, arithmetic_answer, countdown_answer, countdown_tagged, procedural_answer],
)
def test_a_lifted_verifier_scores_many_and_keeps_its_settings(verifier):
    from didact.plugins.signature import params_of
    from didact.rewards.each import each

    lifted = each(verifier)
    settings = set(params_of("reward", lifted).model_fields)
    assert settings <= {"formed", "numbers", "target"}
    problem = Problem("p", "q")
    assert isinstance(lifted([said(problem, "x")])[0], Failed)
