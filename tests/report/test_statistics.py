"""Intervals, tests and corrections do what their names say."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from didact.core.report.statistics import (
    difference,
    estimate,
    holm,
    pass_curve,
    sign_flip,
    t_quantile,
    t_tail,
)

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden/metrics/cases.jsonl").read_text().splitlines()
]


def cases(metric):
    found = [case for case in CASES if case["metric"] == metric]
    assert found
    return found


@pytest.mark.parametrize("case", cases("pass@k"), ids=str)
def test_pass_at_k_agrees_with_other_harnesses(case):
    given = case["inputs"]
    found = pass_curve(np.array([[given["c"]]]), np.array([[given["n"]]]), given["k"])
    assert found[0, 0] == pytest.approx(case["expected"], abs=1e-9)


def test_pass_at_k_is_the_mean_over_all_ways_to_draw():
    # 5 answers, 2 right, 3 drawn: 1 - C(3,3)/C(5,3) = 0.9; of 4 with 1 right: 1 - C(3,3)/C(4,3).
    found = pass_curve(np.array([[2, 1]]), np.array([[5, 4]]), 3)
    assert found.tolist() == [[0.9, 0.75]]


def test_pass_at_k_is_undefined_for_fewer_answers():
    with pytest.raises(ValueError, match="undefined"):
        pass_curve(np.array([[1]]), np.array([[2]]), 3)


@pytest.mark.parametrize("case", cases("t_ppf(0.975)"), ids=str)
def test_quantiles_of_t_agree_with_tables(case):
    assert t_quantile(case["inputs"]["df"]) == pytest.approx(case["expected"], abs=1e-8)


@pytest.mark.parametrize("freedom", [1.0, 1.5, 2.0, 7.3, 99.0, 5000.0, math.inf])
def test_tail_and_quantile_of_t_are_inverse(freedom):
    assert t_tail(t_quantile(freedom), freedom) == pytest.approx(0.05, abs=1e-6)


def test_tail_of_t_is_known_in_closed_form_for_one_and_two_degrees():
    assert t_tail(1.0, 1.0) == pytest.approx(0.5, abs=1e-12)  # Cauchy: P(|T| > 1) = 1/2
    assert t_tail(2.0, 2.0) == pytest.approx(1 - 2 / math.sqrt(6), abs=1e-12)


def test_interval_of_one_seed_is_close_to_the_t_interval():
    case = cases("bootstrap_ci95_close_to_t")[0]["inputs"]
    values = np.array(case["values"], dtype=float)
    half = t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    found = estimate(values[None])
    assert abs(found.low - (values.mean() - half)) < case["abs_tol"]
    assert abs(found.high - (values.mean() + half)) < case["abs_tol"]
    assert not found.seed_variance_known


def test_identical_methods_differ_by_exactly_zero():
    values = np.random.default_rng(0).random((3, 50))
    found = difference(values, values.copy())
    assert (found.estimate.mean, found.estimate.low, found.estimate.high) == (0.0, 0.0, 0.0)
    assert (found.p, found.p_questions, found.p_seeds) == (1.0, 1.0, 1.0)


def test_a_difference_is_of_the_means_whether_seeds_are_paired_or_not():
    random = np.random.default_rng(0)
    one, other = random.random((3, 40)), random.random((2, 40))
    assert difference(one, other, paired=False).estimate.mean == pytest.approx(
        one.mean() - other.mean(), abs=1e-12
    )


def test_sign_flip_enumerates_all_signs_of_few_questions():
    values = np.array([0.5, 0.25, -0.125, 1.0])
    reached = abs(values.sum())
    each = [abs(np.dot(signs, values)) >= reached for signs in product((-1, 1), repeat=4)]
    assert sign_flip(values) == np.mean(each)


def test_sign_flip_of_many_questions_approaches_the_normal_limit():
    values = np.random.default_rng(3).normal(0.1, 1.0, 400)
    z = values.sum() / math.sqrt((values**2).sum())
    assert sign_flip(values) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.015)


def test_questions_without_a_difference_do_not_change_the_test():
    values = np.array([0.5, 0.25, 0.125])
    assert sign_flip(np.concatenate([values, np.zeros(500)])) == sign_flip(values) == 0.25


def test_holm_steps_down_and_never_decreases():
    # sorted 0.01, 0.02, 0.03 times 3, 2, 1 = 0.03, 0.04, 0.03 -> running maximum
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_seed_that_is_off_widens_the_interval():
    random = np.random.default_rng(0)
    calm = (random.random((3, 200)) < 0.5).astype(float)
    shaken = np.clip(calm + np.array([[0.0], [0.2], [-0.2]]), 0, 1)
    assert estimate(shaken).error > 3 * estimate(calm).error


def simulate(replicates, questions, seeds, *, effect=0.0, of_seed=0.0, samples=8):
    """Differences of two methods whose true difference is `effect` on the mean question."""
    random = np.random.default_rng(17)
    for _ in range(replicates):
        easy = random.beta(0.6, 0.6, questions)

        def method(shift, easy=easy):
            own = easy + 0.15 * random.standard_normal(questions)  # questions that it suits
            chances = own + of_seed * random.standard_normal((seeds, 1))
            return shift + random.binomial(samples, np.clip(chances, 0, 1)) / samples

        yield difference(method(effect), method(0.0))


@pytest.mark.parametrize(
    ("questions", "seeds", "of_seed"), [(200, 1, 0.0), (30, 1, 0.0), (200, 3, 0.05), (200, 5, 0.03)]
)
def test_under_no_difference_the_test_rejects_in_about_five_percent(questions, seeds, of_seed):
    found = list(simulate(800, questions, seeds, of_seed=of_seed))
    assert 0.03 <= np.mean([one.p <= 0.05 for one in found]) <= 0.08
    covered = np.mean([one.estimate.low <= 0 <= one.estimate.high for one in found])
    assert 0.92 <= covered <= 0.975


def test_without_the_seeds_the_test_would_reject_far_too_often():
    found = list(simulate(200, 200, 3, of_seed=0.05))
    assert np.mean([one.p_questions <= 0.05 for one in found]) > 0.2


def test_a_true_difference_is_found():
    found = list(simulate(100, 300, 3, effect=0.1, of_seed=0.01))
    assert np.mean([one.p <= 0.05 for one in found]) > 0.9


@pytest.mark.parametrize("questions", [20, 40, 100, 300])
def test_rounding_makes_no_variance_of_seeds_where_there_is_none(questions):
    values = np.zeros((2, questions))
    values[0, 0] = 1.0  # seeds differ by exactly the noise of single answers
    assert estimate(values).freedom == pytest.approx(questions - 1)


def test_copies_of_a_question_tell_no_more_than_it_does():
    random = np.random.default_rng(0)
    method, baseline = random.random((2, 3, 12))
    same = np.repeat(np.arange(12), 5)
    once = difference(method, baseline)
    found = difference(np.repeat(method, 5, axis=1), np.repeat(baseline, 5, axis=1), same=same)
    assert found.p_questions == once.p_questions
    assert found.p_seeds == pytest.approx(once.p_seeds)
    assert found.estimate.low == pytest.approx(once.estimate.low)
    assert found.estimate.questions == 60


def test_a_question_with_many_copies_is_one_sign_and_weighs_as_many():
    values = np.zeros((2, 40))
    values[:, :10] = 1.0
    same = np.maximum(np.arange(40) - 9, 0)  # the first ten are one question
    found = difference(values, np.zeros((2, 40)), same=same)
    assert found.estimate.mean == pytest.approx(0.25)
    assert found.p_questions == 1.0


def test_five_percent_of_tests_reject_where_questions_are_repeated_and_nothing_differs():
    random = np.random.default_rng(0)
    same, rejected = np.repeat(np.arange(15), 6), 0
    for _ in range(300):
        noise = np.repeat(random.normal(0, 0.3, 15), 6) + random.normal(0, 0.1, 90)
        rejected += difference(noise[None], np.zeros((1, 90)), same=same).p < 0.05
    assert 0.02 <= rejected / 300 <= 0.09
