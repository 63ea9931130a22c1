"""Budgets of answers at their edges; released cases are in test_shaping_golden."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.algorithms import allocation

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=10)


@given(raw=SHARES, total=st.integers(0, 200))
def test_whole_numbers_have_the_sum_that_was_asked_for(raw, total):
    sum_of = sum(raw)
    shares = [x / sum_of for x in raw] if sum_of > 1e-9 else [1 / len(raw)] * len(raw)
    counts = allocation.whole_numbers(shares, total)
    assert sum(counts) == total
    assert all(abs(n - s * total) < 2 for n, s in zip(counts, shares, strict=True))


def test_no_prompt_worth_sampling_gets_nothing():
    shares = allocation.gvm_shares([0.0, 1.0], [0.5, 0.0])
    assert shares == [0.0, 0.0]
    assert allocation.whole_numbers(shares, 16) == [0, 0]


def test_gvm_filters_easy_prompts_and_those_with_too_few_expected_successes():
    norms, rates = [1.0, 1.0, 1.0], [0.9, 0.5, 0.01]
    assert allocation.gvm_shares(norms, rates, accepted_at_most=0.8)[0] == 0.0
    kept = allocation.gvm_shares(norms, rates, least_expected=1.0, total=30)
    assert kept[2] == 0.0 and sum(kept) == pytest.approx(1.0)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 16))
def test_ada_keeps_as_many_as_it_can_and_never_more(positives, negatives, keep):
    for rule in (allocation.ada_kept, allocation.ada_fallback):
        good, bad = rule(positives, negatives, keep=keep)
        assert 0 <= good <= positives and 0 <= bad <= negatives
        assert good + bad == min(keep, positives + negatives)


def test_ada_stops_when_both_sides_or_one_success_are_there():
    assert allocation.ada_satisfied(2, 2, keep=4)
    assert not allocation.ada_satisfied(1, 7, keep=4)
    assert allocation.ada_satisfied(1, 0, keep=4, rule="positive_focused")
    assert not allocation.ada_satisfied(0, 8, keep=4, rule="positive_focused")


def test_dars_gives_a_hopeless_prompt_the_most():
    def extra(u):
        return allocation.dars_extra(u, n=8, most=32, schedule="equal")

    assert extra(0.0) == 24
    assert [extra(k / 8) for k in range(9)] == sorted(
        (extra(k / 8) for k in range(9)), reverse=True
    )
    assert extra(0.5) == extra(1.0) == 0
