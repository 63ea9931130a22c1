"""Mathematical answers: what is equal, what is not, and what hostile responses cannot do."""

import pickle
import time

import pytest

from didact.core.protocols import Failed
from didact.plugins.signature import params_of
from didact.rewards.math_verify import MathVerify
from didact.rewards.pool import Died


@pytest.fixture(scope="module")
def grader():
    made = MathVerify(workers=2, seconds=20.0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hasty():
    made = MathVerify(workers=2, seconds=1.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        (r"so \boxed{\frac{1}{2}}.", "0.5", 1.0),
        (r"so \boxed{0.5}.", r"\frac{1}{2}", 1.0),
        (r"\boxed{x + 1}", "1 + x", 1.0),
        (r"\boxed{1}, no, \boxed{2}", "2", 1.0),
        (r"\boxed{1}, no, \boxed{2}", "1", 0.0),  # two boxes are not a set
        (r"\boxed{\boxed{7}}", "7", 1.0),
        (r"\boxed{7}", r"\boxed{7}", 1.0),
        (r"\boxed{7}", "$7$", 1.0),
        (r"\boxed{7}", 7, 1.0),
        (r"\boxed{7.0}", ["6", "7"], 1.0),
        (r"\boxed{10^{-8}}", "1e-8", 1.0),
        (r"\boxed{1e-8}", r"1 \times 10^{-8}", 1.0),
        (r"\boxed{2e-7}", "1e-7", 0.0),
        (r"\boxed{\frac{1}{2006!}}", r"\frac{1}{2004!}", 0.0),
        (r"\boxed{0.333333}", r"\frac{1}{3}", 1.0),
        (r"\boxed{sqrt(2)/2}", r"\frac{\sqrt{2}}{2}", 1.0),
        (r"\boxed{x**10 + pi/4}", r"x^{10} + \frac{\pi}{4}", 1.0),
        (r"\boxed{50\%}", r"\frac12", 1.0),
        (r"\boxed{1,000}", "1000", 1.0),
        (r"\boxed{(3, \frac{\pi}{2})}", r"\left( 3, \frac{\pi}{2} \right)", 1.0),
        (r"\boxed{\text{east}}", "east", 1.0),
        (r"\boxed{\text{west}}", "east", 0.0),
        ("Natural words, and the answer is $4$.", "4", 1.0),
        ("I got #### 18", "18", 1.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        ("<think>\\boxed{3}</think><answer>5</answer>", "5", 1.0),
        ("<think>\\boxed{3}</think><answer>5</answer>", "3", 0.0),
        ("", "4", 0.0),
        ("   \n", "4", 0.0),
        (r"\boxed{}", "4", 0.0),
        (r"\boxed{\frac{1}{", "4", 0.0),
        ("}}}}{{{{ \\boxed{{{4}", "5", 0.0),
    ],
)
def test_verdicts(grader, response, text, answer, value):
    assert grader([response(text, answer)]) == [value]


@pytest.mark.parametrize("answer", [None, "", [], {"a": 1}])
def test_a_problem_without_an_answer_is_failed_beside_good_ones(grader, response, answer):
    good, bad, wrong = grader(
        [response(r"\boxed{1}", "1"), response("1", answer), response(r"\boxed{1}", "2")]
    )
    assert (good, wrong) == (1.0, 0.0)
    assert isinstance(bad, Failed) and "problem 'p'" in bad.reason


HOSTILE = [
    r"\boxed{9**9**9**9}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{9^{9^9}!}",
    r"\boxed{(((((x+1)^{99999}+1)^{99999}+1)^{99999}}",
    r"\boxed{\int_0^{\infty} \sin(x^{x^x}) e^{-x^9} dx}",
    r"\boxed{" + "{" * 5000 + "}" * 5000 + "}",
    r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    r"\boxed{" + "+".join(f"x_{{{n}}}^{{{n}}}" for n in range(2000)) + "}",
    r"\boxed{" + "9" * 100_000 + "}",
    "1" * 1_000_000,
    "$x+" * 100_000,
    "no answer here. " * 60_000,
    "\\boxed{" * 20_000,
    "\x00\ud800\u202e",
]


def test_hostile_responses_end_in_time_and_score_nothing(hasty, response, caplog):
    hasty([response(r"\boxed{1}", "1")])
    began = time.monotonic()
    values = hasty([response(text, "7") for text in HOSTILE])
    seconds = time.monotonic() - began
    assert values == [0.0] * len(HOSTILE)
    # every one may cost the limit and a new worker, shared by two workers on a busy machine
    assert seconds < len(HOSTILE) * (1.0 + 5.0)
    heavy = hasty.counts["timeouts"] + hasty.counts["exhausted"]
    assert heavy >= 1
    assert f"{heavy} of {len(HOSTILE)} responses took more than 1 s" in caplog.text
    assert hasty([response(r"\boxed{7}", "7")]) == [1.0]


@pytest.mark.parametrize("form", ["{}", r"\boxed{{{}}}", "${}$", "The answer is {}", "({})+6"])
def test_a_response_is_never_executed(hasty, response, tmp_path, form):
    marker = tmp_path / "marker"
    code = f"open('{marker}', 'w').close() or 1"
    hasty([response(form.format(code), "7"), response("7", code)])
    hasty([response(form.format(f"__import__('os').system('touch {marker}')"), "7")])
    assert not marker.exists()


def test_a_hostile_gold_answer_is_failed_not_wrong(hasty, response, monkeypatch):
    from didact.rewards.pool import Killed

    monkeypatch.setattr(hasty._pool, "run", lambda jobs: [Killed("") for _ in jobs])
    (value,) = hasty([response("1", "1", problem="math/9")])
    assert isinstance(value, Failed) and "math/9" in value.reason and "own answer" in value.reason


def test_a_crashed_worker_is_failed_not_wrong(grader, response, monkeypatch):
    monkeypatch.setattr(grader._pool, "run", lambda jobs: [Died(-11) for _ in jobs])
    (value,) = grader([response("1", "1")])
    assert value == Failed("problem 'p': a grading process ended with status -11")


def test_counts_say_what_was_graded(response):
    grader = MathVerify(workers=1)
    grader([response(r"\boxed{1}", "1"), response("", "1"), response("1", None)])
    assert grader.counts == {"graded": 2, "failed": 1}
    grader.close()


def test_required_thoughts_must_be_closed_and_only_what_follows_counts(response):
    # ReLIFT: the prompt has opened <think>; what stands between the first and second </think>
    grader = MathVerify(workers=1, require="think", extract="whole", compare="math_verify")
    texts = {
        "\\boxed{4}": 0.0,
        "hm </think> so \\boxed{4}": 1.0,
        "\\boxed{4} </think> so it is": 0.0,
        "</think> \\boxed{4} </think> \\boxed{5}": 1.0,
        "</think>": 0.0,
    }
    assert grader([response(text, "4") for text in texts]) == list(texts.values())
    grader.close()


def test_a_truncated_response_is_wrong_only_on_demand(grader, response):
    cut = response(r"\boxed{4}", "4", truncated=True)
    assert grader([cut]) == [1.0]
    strict = MathVerify(complete=True)
    assert strict([cut]) == [0.0]
    assert not strict._pool._alive  # nothing to grade, nothing started


def test_no_process_starts_before_the_first_answer_and_settings_survive_pickling():
    grader = MathVerify(workers=3, seconds=2.0, extract="boxed")
    assert not grader._pool._alive
    assert pickle.loads(pickle.dumps(grader)) == grader
    assert set(params_of("reward", MathVerify).model_fields) == {
        "workers", "seconds", "extract", "require", "compare", "complete",
    }  # fmt: skip
