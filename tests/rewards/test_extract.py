"""Where the final answer of a response stands."""

import time

import pytest

from didact.rewards.extract import (
    EXTRACTORS,
    after_marker,
    auto,
    boxed,
    choice,
    final,
    last_number,
    tagged,
)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{x = \fbox{7}}", "7"),
        (r"\boxed{ \left\{ 1, 2 \right. }", r"\left\{ 1, 2 \right."),  # an escaped brace
        (r"\boxed 5", "5"),
        (r"\boxed {5}", "5"),
        ("{ \\boxed{5} and {{{", "5"),
        ("}}} \\boxed{5}", "5"),
        (r"\boxed{1} and \boxed{2", "1"),  # the last complete one
        (r"\boxed{}", ""),
        (r"\boxed{2", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_complete_box(text, content):
    assert boxed(text) == content


def test_marker_takes_the_rest_of_its_line():
    assert after_marker("a #### 1\n#### 42\nbye", "####") == "42"
    assert after_marker("####\n42", "####") == "42"
    assert after_marker("x = 1 = 2", "=") == "2"
    assert after_marker("none", "####") is None


def test_the_last_complete_tag():
    assert tagged("<answer>1</answer> <answer> 2 </answer>") == "2"
    assert tagged("<answer>1</answer> <answer>2") == "1"
    assert tagged("</answer> <answer>") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It costs $1,234.50.", "$1,234.50"),
        ("from 3 to -5", "-5"),
        ("7-5", "5"),  # a difference, not a sign
        ("about 1.5e-8 m", "1.5e-8"),
        ("3/4 of it", "3/4"),
        (r"$x = -\frac{3}{4}$", r"-\frac{3}{4}"),  # not 4
        (r"so 1\frac12", r"1\frac12"),
        (r"\dfrac{x}{2}", "2"),
        ("50% off", "50%"),
        ("1, 2, 3", "3"),
        (".5", ".5"),
        ("x2", None),
        ("nothing", None),
    ],
)
def test_the_last_number_as_it_is_written(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("Answer: **C**", "C"),
        (r"A is wrong, so \boxed{\text{D}}", "D"),
        ("<answer>b</answer>", "B"),
        ("A dog and I think it's B", "B"),
        ("It's not A because it fails, therefore I think it's B", "B"),
        ("c)", "C"),
        ("The answer is A or so we thought; no, the answer is B", "B"),
        ("no letter here", None),
        ("", None),
    ],
)
def test_the_chosen_letter(text, letter):
    assert choice(text) == letter


def test_auto_reads_behind_the_thoughts():
    assert auto(r"<think>\boxed{1}</think>#### 2") == "2"
    assert auto(r"\boxed{1}<answer>\boxed{2} apples</answer>") == "2"
    assert auto(r"<answer> 3 </answer>") == "3"
    assert auto(r"<think>\boxed{1}") == "1"
    assert auto("It is 4.") is None


@pytest.mark.parametrize("how", list(EXTRACTORS))
@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 30_000,
        "{" * 200_000,
        "<answer>" * 30_000,
        "#" * 200_000,
        "=" * 200_000,
        "1" * 200_000,
        "1," * 100_000,
        "\\" * 200_001,
        "answer is " * 20_000,
        " A" * 100_000,
    ],
)
def test_hostile_texts_take_linear_time(how, text):
    began = time.perf_counter()
    final(text, how)
    assert time.perf_counter() - began < 2.0
