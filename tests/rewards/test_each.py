"""A lifted function is a provider that keeps name, words and settings, and fails one by one."""

import inspect
import json
import pickle
from pathlib import Path

import pytest

from didact.core.protocols import Failed
from didact.plugins.signature import params_of
from didact.rewards.each import each


def starts_with(trajectory, *, letter: str = "a", worth: float = 1.0) -> float:
    """Whether it starts with a letter."""
    return worth * (trajectory.text[0] == letter)


def test_it_scores_each_trajectory_with_the_settings(response):
    provider = each(starts_with)
    batch = [response("ab"), response("ba")]
    assert provider(batch) == [1.0, 0.0]
    assert provider(batch, letter="b", worth=3.0) == [0.0, 3.0]
    assert provider([]) == []


def test_an_exception_fails_its_own_trajectory_and_says_where(response):
    good, bad, also_good = each(starts_with)([response("ab"), response(""), response("b")])
    assert (good, also_good) == (1.0, 0.0)
    line = inspect.getsourcelines(starts_with)[1] + 2
    assert bad == Failed(f"IndexError: string index out of range, {Path(__file__)}:{line}")


def test_what_raises_deep_inside_is_told_with_every_call_on_the_way(response):
    def reads(trajectory):
        return json.loads(trajectory.text)["score"]

    (bad,) = each(reads)([response("no json")])
    first, *_, last = bad.reason.partition(", ")[2].split(" > ")
    assert first == f"{Path(__file__)}:{inspect.getsourcelines(reads)[1] + 1}"
    assert "decoder.py" in last


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "many"])
def test_what_is_no_finite_number_is_failed(response, value):
    (only,) = each(lambda trajectory: value)([response()])
    assert isinstance(only, Failed)


def test_an_interrupt_is_not_a_failed_reward(response):
    def interrupted(trajectory):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each(interrupted)([response()])


def test_signature_name_and_docstring_are_those_of_the_function():
    provider = each(starts_with)
    first, *settings = inspect.signature(provider).parameters.values()
    assert first.name == "trajectories"
    assert [(p.name, p.default, p.kind) for p in settings] == [
        ("letter", "a", inspect.Parameter.KEYWORD_ONLY),
        ("worth", 1.0, inspect.Parameter.KEYWORD_ONLY),
    ]
    assert provider.__name__ == "starts_with"
    assert inspect.getdoc(provider) == "Whether it starts with a letter."
    assert list(params_of("reward", provider).model_fields) == ["letter", "worth"]


def test_it_survives_pickling(response):
    again = pickle.loads(pickle.dumps(each(starts_with)))
    assert again([response("a")]) == [1.0]
    assert inspect.signature(again) == inspect.signature(each(starts_with))


def test_a_function_may_say_itself_why_it_failed(response):
    def refuses(trajectory):
        return Failed("no answer given")

    assert each(refuses)([response("x")]) == [Failed("no answer given")]
