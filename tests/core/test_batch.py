"""What a mini-batch gives under a name, and how it says that some rows have none."""

import pytest
import torch

from didact.core.batch import Batch
from didact.core.errors import RecipeError
from didact.core.types import Problem, Prompt, Trajectory

PROMPT = Prompt("p", torch.tensor([1]), Problem("p", "p"))


def row(origin, columns=(), signals=()):
    tokens = torch.tensor([3, 4])
    return Trajectory(
        PROMPT,
        tokens,
        torch.ones(2, dtype=torch.bool),
        origin,
        columns={name: torch.zeros(2) for name in columns},
        signals=dict.fromkeys(signals, 1.0),
    )


def test_only_rows_without_a_column_are_told_to_lack_it():
    rows = [row("policy", ["prefix"]), row("policy", ["prefix"]), row("replay")]
    with pytest.raises(RecipeError, match=r"'prefix' is missing on 1 of 3 rows \(origin replay\)"):
        Batch(tuple(rows)).stored("prefix")


def test_a_number_for_each_token_and_one_for_the_response_do_not_mix():
    rows = [row("policy", signals=["advantages"]), row("replay", columns=["advantages"])]
    with pytest.raises(RecipeError, match=r"for each token on 1 of 2 rows \(origin replay\)"):
        Batch(tuple(rows)).stored("advantages")
    assert Batch((rows[0], rows[0])).stored("advantages").tolist() == [1.0, 1.0]
