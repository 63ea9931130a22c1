"""The procedural families: rules, levels, splits, demonstrations and their exact verifiers."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError, RewardError
from didact.core.protocols import Failed
from didact.core.types import Problem, Prompt, Trajectory
from didact.feedback.tasks import countdown
from didact.feedback.tasks.arithmetic import Arithmetic
from didact.feedback.tasks.countdown import Countdown, ErrorPath
from didact.feedback.tasks.letters import (
    FUNCTIONS,
    Letters,
    demonstrate,
    results,
    split_of_start,
    starts_of,
)
from didact.rewards.procedural import (
    arithmetic_answer,
    countdown_answer,
    countdown_tagged,
    letters_answer,
    procedural_answer,
    reaches,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum"
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


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("R", "edcba"),
        ("L", "bcdea"),
        ("X", "ebcda"),
        ("P", "badce"),
        ("F", "abcda"),
        ("N", "bcdef"),
    ],
)
def test_each_letter_function_does_what_its_name_says(name, out):
    assert FUNCTIONS[name]("abcde") == out


def test_the_new_function_wraps_around():
    assert FUNCTIONS["N"]("hhaab") == "aabbc"


def test_a_chain_is_written_line_by_line_as_in_the_measured_experiment():
    assert demonstrate("RLX", "abcde") == "R=edcba\nL=dcbae\nX=ecbad"


def test_every_start_string_is_in_exactly_one_split_by_its_weighted_sum():
    sizes = {split: len(starts_of(split)) for split in SPLITS}
    # "abcde": 0*1 + 1*2 + 2*3 + 3*4 + 4*5 = 40; 40 mod 5 = 0.
    assert split_of_start("abcde") == "test"
    # "aaaab": 5 -> 0; "baaaa": 1; "aabaa": 3.
    assert [split_of_start(s) for s in ("aaaab", "baaaa", "aabaa")] == [
        "test",
        "validation",
        "train",
    ]
    assert sum(sizes.values()) == len(set().union(*map(starts_of, SPLITS))) == 8**5


@pytest.mark.parametrize(
    ("level", "length", "new"), [(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 2, 1), (5, 3, 1)]
)
def test_a_letters_level_has_its_length_and_its_number_of_new_functions(level, length, new):
    places = set()
    for problem in Letters(levels=[level], size=300):
        names, start = problem.question.strip().split(":")
        assert (len(names), names.count("N")) == (length, new)
        assert len({start, *results(names, start)}) == length + 1
        assert problem.metadata["level"] == level
        places.add(names.find("N"))
    assert places == (set(range(length)) if new else {-1})


def test_a_letters_test_set_has_no_problem_twice():
    for seed in range(5):
        assert len({problem.id for problem in Letters("test", size=3000, seed=seed)}) == 3000


def test_letters_uses_every_start_once_before_any_again():
    first = [p.question.split(":")[1] for p in Letters("test", size=6552, levels=[3])]
    # A few starts (aaaaa, say) fit no chain and are replaced by others.
    assert len(set(first)) > 6552 - 40


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


def test_letters_splits_share_no_start_even_when_all_are_drawn():
    starts = [{p.question.split(":")[1] for p in Letters(s, size=20_000)} for s in SPLITS]
    assert not starts[0] & starts[1] | starts[0] & starts[2] | starts[1] & starts[2]


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


def test_a_letter_slip_is_one_letter_and_is_carried_on():
    for problem in Letters(wrong=1.0, levels=[3], size=200):
        names, string = problem.question.strip().split(":")
        slips = 0
        for line, name in zip(problem.demonstrations[0].split("\n"), names, strict=True):
            right, noted = FUNCTIONS[name](string), line.removeprefix(f"{name}=")
            different = sum(a != b for a, b in zip(right, noted, strict=True))
            assert different in (0, 1)
            slips += different
            string = noted
        assert slips == 1


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


@pytest.mark.parametrize(
    ("text", "score"),
    [("R=edcba", 1.0), ("anything =edcba", 1.0), ("edcba", 0.0), ("R=edcba\n", 0.0),
     ("R=edcb", 0.0), ("R=edcba=", 0.0), ("", 0.0), ("R= edcba", 0.0)],
)  # fmt: skip
def test_letters_compares_what_follows_the_last_equals_sign(text, score):
    assert letters_answer(said(Problem("p", "R:abcde\n", "edcba"), text)) == score


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


def test_a_countdown_template_must_name_numbers_and_target():
    assert Countdown(template="Make {target} of {numbers}.")[0].question.startswith("Make ")
    with pytest.raises(RecipeError, match="must name"):
        Countdown(template="Make {target}.")
    with pytest.raises(RecipeError, match="write other braces twice"):
        Countdown(template="{numbers} {target} \\boxed{}")


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
    from didact.plugins.spec import params_of
    from didact.rewards.each import each

    lifted = each(verifier)
    settings = set(params_of("reward", lifted).model_fields)
    assert settings <= {"formed", "numbers", "target"}
    problem = Problem("p", "q")
    assert isinstance(lifted([said(problem, "x")])[0], Failed)
