"""Rewards for length and repetition, on figures worked out by hand."""

import pytest

from didact.core.errors import RewardError
from didact.core.protocols import Failed
from didact.rewards.each import each
from didact.rewards.length import cosine_length, kimi_length, linear_length, overlong
from didact.rewards.repetition import repetition


def right(trajectories):
    """FAKE verifier: right if the text says so, failed if it says so."""
    return [Failed("broken") if t.text == "fail" else float(t.text == "yes") for t in trajectories]


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (500, -1.0)]
)
def test_overlong_falls_from_limit_minus_cache_to_limit(response, length, value):
    # limit 100, cache 20: (80 - 85) / 20 = -0.25
    assert overlong(response(length=length), limit=100, cache=20) == pytest.approx(value, abs=1e-12)


def test_overlong_scales_and_refuses_a_cache_beyond_the_limit(response):
    assert overlong(response(length=90), limit=100, cache=20, greatest=2.0) == -1.0
    (value,) = each(overlong)([response(length=9)], limit=10, cache=11)
    assert isinstance(value, Failed)


def test_linear_length_counts_tokens(response):
    assert linear_length(response(length=250), per=1000) == -0.25


def group(response, lengths, correct, problem="p"):
    said = ["yes" if one else "no" for one in correct]
    return [
        response(text, length=n, problem=problem) for text, n in zip(said, lengths, strict=True)
    ]


def test_kimi_length_on_the_papers_formula(response):
    # min 100, max 400: 0.5 - 0, 0.5 - 1/3, min(0, 0.5 - 2/3), min(0, 0.5 - 1)
    rows = group(response, [100, 200, 300, 400], [1, 1, 0, 0])
    assert kimi_length(rows, correct=right) == pytest.approx([1 / 2, 1 / 6, -1 / 6, -1 / 2])
    # min 10, max 400: wrong ones are never rewarded; 0.5 - 80/390, 0.5 - 290/390
    rows = group(response, [10, 400, 205, 90, 300], [0, 1, 0, 1, 1])
    expected = [0, -0.5, 0, 0.5 - 80 / 390, 0.5 - 290 / 390]
    assert kimi_length(rows, correct=right) == pytest.approx(expected)


def test_kimi_length_is_zero_if_all_are_equally_long(response):
    assert kimi_length(group(response, [50, 50, 50], [1, 0, 1]), correct=right) == [0.0, 0.0, 0.0]


def test_kimi_length_compares_within_a_prompt_only(response):
    a = group(response, [10, 20], [1, 1], "a")
    b = group(response, [1000, 3000], [1, 0], "b")
    mixed = kimi_length([a[0], b[0], a[1], b[1]], correct=right)
    assert mixed == [0.5, 0.5, -0.5, -0.5]


def test_a_failed_verifier_fails_its_row_and_leaves_the_others(response):
    rows = [*group(response, [10, 20], [1, 1]), response("fail", length=1000)]
    first, second, failed = kimi_length(rows, correct=right)
    assert (first, second) == (0.5, -0.5)
    assert failed == Failed("broken")
    assert cosine_length(rows, correct=right, limit=20)[2] == Failed("broken")


def test_kimi_length_refuses_parts_of_groups(response, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("didact.rewards.length.current", lambda: SimpleNamespace(rank=0, size=2))
    with pytest.raises(RewardError, match="whole groups"):
        kimi_length(group(response, [1, 2], [1, 1]), correct=right)


def test_cosine_length_runs_from_short_to_long(response):
    # cos(0) = 1, cos(pi/2) = 0, cos(pi) = -1: 1, 0.75, 0.5 if right; -1, -0.75, -0.5 if wrong
    lengths = [0, 50, 100, 900]
    good = cosine_length(group(response, lengths, [1] * 4), correct=right, limit=100)
    bad = cosine_length(group(response, lengths, [0] * 4), correct=right, limit=100)
    assert good == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert bad == pytest.approx([-1.0, -0.75, -0.5, -0.5])
    # cos(pi/4) = sqrt(1/2): 0.5 + 0.25 (1 + 0.70711) = 0.92678, the figure of TRL's tests
    (quarter,) = cosine_length(group(response, [25], [1]), correct=right, limit=100)
    assert quarter == pytest.approx(0.92678, abs=1e-5)


def test_cosine_length_may_punish_what_exceeds_the_limit(response):
    rows = group(response, [99, 100], [1, 1])
    assert cosine_length(rows, correct=right, limit=100, exceeded=-10.0)[1] == -10.0
    assert cosine_length(rows, correct=right, limit=100, exceeded=-10.0)[0] > 0.5


def test_repetition_is_the_share_of_ngrams_seen_before(response):
    # "a b a b a": ab, ba, ab, ba: 2 of 4 are new
    assert repetition(response("a b A b a"), n=2) == -0.5
    # 1 2 3 1 2 3 as trigrams: 123 231 312 123: 3 of 4 are new
    row = response(tokens=[1, 2, 3, 1, 2, 3])
    assert repetition(row, n=3, unit="tokens", greatest=0.4) == pytest.approx(-0.1)


@pytest.mark.parametrize("text", ["", "a", "a b"])
def test_a_response_shorter_than_n_repeats_nothing(response, text):
    assert repetition(response(text), n=3) == 0.0
