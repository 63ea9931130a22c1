"""What a choice of trajectories says when a name cannot be compared as asked."""

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.where import Where

PROMPT = Prompt("p", torch.tensor([1]), Problem("p", "q", metadata={"topic": "sums"}))
ROW = Trajectory(PROMPT, torch.tensor([2]), torch.tensor([True]), "demonstration")


@pytest.mark.parametrize(
    ("name", "value"), [("version", "None"), ("prompt.topic", "'sums'"), ("origin", "'demons.*'")]
)
def test_a_range_of_what_is_no_number_is_one_clear_line(name, value):
    with pytest.raises(
        RecipeError, match=rf"^where: a range is asked of '{name}', .* {value} .*'p'"
    ):
        Where({name: {"at_least": 1}})(ROW)


def test_of_several_entries_those_that_every_row_has_are_tried_first():
    assert not Where({"reward": 1, "origin": "policy"})(ROW)
    with pytest.raises(RecipeError, match="'demonstration' has no 'reward'"):
        Where({"reward": 1, "origin": "demonstration"})(ROW)
