"""What a mini-batch gives under a name, and how it says that some rows have none."""

from dataclasses import replace

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


def test_values_that_are_not_one_for_each_token_are_refused_not_moved_to_other_rows():
    longer = replace(row("policy"), trainable=torch.ones(3, dtype=torch.bool))
    shorter = replace(row("replay"), trainable=torch.ones(1, dtype=torch.bool))
    with pytest.raises(
        RecipeError, match=r"'trainable' has shape \(3,\) on a response of 2 tokens"
    ):
        _ = Batch((longer, shorter)).mask  # as many in all as there are tokens
    wide = replace(row("policy"), columns={"a": torch.zeros(2, 1)})
    with pytest.raises(RecipeError, match=r"'a' has shape \(2, 1\) on a response of 2 tokens"):
        Batch((wide,)).stored("a")


def test_rows_of_unequal_length_are_padded_behind_and_none_may_be_empty_or_all():
    one = replace(row("policy", ["a"]), tokens=torch.tensor([5]), trainable=torch.tensor([True]))
    one = replace(one, columns={"a": torch.tensor([0.5])})
    none = replace(one, tokens=one.tokens[:0], trainable=one.trainable[:0], columns={})
    batch = Batch((one, row("policy"), none))
    assert batch.tokens.tolist() == [[5, 0], [3, 4], [0, 0]]
    assert batch.mask.tolist() == [[True, False], [True, True], [False, False]]
    assert Batch((none, none)).tokens.shape == Batch((none, none)).mask.shape == (2, 0)


def test_columns_of_two_dtypes_are_read_in_the_wider_one():
    exact = replace(row("policy"), columns={"a": torch.full((2,), 0.1, dtype=torch.float64)})
    read = Batch((row("policy", ["a"]), exact)).stored("a")
    assert read.dtype == torch.float64 and read[1, 0].item() == 0.1
