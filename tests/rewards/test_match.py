"""Exact, numeric and multiple-choice match."""

import pytest

from didact.core.protocols import Failed
from didact.rewards.each import each
from didact.rewards.match import choice_match, exact_match, numeric_match


def test_exact_match_is_letter_for_letter_unless_told_otherwise(response):
    said = response("<answer> Paris </answer>", "paris")
    assert exact_match(said) == 0.0
    assert exact_match(said, case=False) == 1.0
    assert exact_match(response("x= 7", "7"), extract="equals") == 1.0
    assert exact_match(response(" 7", "7"), extract="whole", strip=False) == 1.0
    assert exact_match(response("nothing marked", "7")) == 0.0


def test_a_list_of_answers_is_any_of_them(response):
    assert exact_match(response("#### b", ["a", "b"])) == 1.0
    assert exact_match(response("#### c", ["a", "b"])) == 0.0


def test_numeric_match_compares_values_not_spelling(response):
    assert numeric_match(response("I pay $1,234.50 now", "1234.5")) == 1.0
    assert numeric_match(response("that is 1/2", 0.5)) == 1.0
    assert numeric_match(response("that is 50%", "0.5")) == 1.0
    assert numeric_match(response("that is 0.3333", "1/3")) == 0.0
    assert numeric_match(response("that is 0.3333", "1/3"), absolute=1e-4) == 1.0
    assert numeric_match(response("it is 101", 100), relative=0.01) == 1.0
    assert numeric_match(response("no idea", 3)) == 0.0


def test_choice_match_compares_the_letter(response):
    assert choice_match(response("I choose (C).", "C")) == 1.0
    assert choice_match(response("The answer is C", "C Cecile")) == 1.0
    assert choice_match(response("The answer is B", "C")) == 0.0


def test_a_truncated_response_is_wrong_only_on_demand(response):
    cut = response("#### 7", "7", truncated=True)
    assert exact_match(cut) == 1.0
    assert exact_match(cut, complete=True) == 0.0
    assert numeric_match(cut, complete=True) == 0.0
    assert choice_match(response("A", "A", truncated=True), complete=True) == 0.0


@pytest.mark.parametrize("answer", [None, "", [], {"a": 1}, ["a", None]])
def test_a_problem_without_an_answer_fails_and_is_not_wrong(response, answer):
    for reward in (exact_match, numeric_match, choice_match):
        (value,) = each(reward)([response("#### 7", answer, problem="gsm/3")])
        assert isinstance(value, Failed)
        assert "gsm/3" in value.reason


def test_an_answer_of_the_wrong_kind_fails(response):
    (value,) = each(numeric_match)([response("7", "seven")])
    assert isinstance(value, Failed) and "not a number" in value.reason
    (value,) = each(choice_match)([response("7", "7")])
    assert isinstance(value, Failed) and "letter" in value.reason
