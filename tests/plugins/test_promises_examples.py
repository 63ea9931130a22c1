"""Examples give a part its settings and its time while it is held to its promises."""

import time

import pytest
from promises import broken, held

from didact import PluginError
from didact.plugins.manager import load
from didact.testing import Example, parts_of


def slow(logprobs):
    time.sleep(0.3)
    return -logprobs


def test_a_slow_part_is_found_out():
    broken("loss", slow, "takes longer than 0.1 s", Example(seconds=0.1))


def test_settings_without_a_default_are_asked_for():
    def needy(logprobs, *, beta: float):
        """Needs beta."""
        return -beta * logprobs

    broken("loss", needy, "loss:it needs settings in its example: beta: Field required")
    held("loss", needy, Example({"beta": 0.5}))


def test_an_example_for_no_part_is_refused():
    with pytest.raises(PluginError, match="an example is for no part"):
        list(parts_of(load(installed=False), "didact", {"loss:nope": Example()}))
