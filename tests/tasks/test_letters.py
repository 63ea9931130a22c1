"""Chains of letter functions: rules, levels, splits and slips."""

import pytest
import torch

from didact.core.types import Problem, Prompt, Trajectory
from didact.feedback.tasks.letters import (
    FUNCTIONS,
    Letters,
    demonstrate,
    results,
    split_of_start,
    starts_of,
)
from didact.rewards.procedural import (
    letters_answer,
)

SPLITS = ["train", "validation", "test"]


def said(problem: Problem, text: str, truncated: bool = False) -> Trajectory:
    empty = torch.empty(0, dtype=torch.int64)
    prompt = Prompt(problem.id, empty, problem)
    return Trajectory(prompt, empty, empty.bool(), "policy", text, truncated)


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


def test_letters_splits_share_no_start_even_when_all_are_drawn():
    starts = [{p.question.split(":")[1] for p in Letters(s, size=20_000)} for s in SPLITS]
    assert not starts[0] & starts[1] | starts[0] & starts[2] | starts[1] & starts[2]


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


@pytest.mark.parametrize(
    ("text", "score"),
    [("R=edcba", 1.0), ("anything =edcba", 1.0), ("edcba", 0.0), ("R=edcba\n", 0.0),
     ("R=edcb", 0.0), ("R=edcba=", 0.0), ("", 0.0), ("R= edcba", 0.0)],
)  # fmt: skip
def test_letters_compares_what_follows_the_last_equals_sign(text, score):
    assert letters_answer(said(Problem("p", "R:abcde\n", "edcba"), text)) == score
