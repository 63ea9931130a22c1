"""Weights from entropy: of a response, and the choice of the most undecided tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didact.algorithms.entropy_weighted import sequence_entropy, top_entropy


def test_a_response_is_weighted_by_the_mean_entropy_of_its_own_tokens():
    entropy = torch.tensor([[0.4, 1.2, 99.0], [0.5, 99.0, 99.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    down = sequence_entropy(entropy, mask)
    assert not down.requires_grad
    torch.testing.assert_close(down, torch.tensor([math.exp(-0.8), math.exp(-0.5)]))
    up = sequence_entropy(entropy, mask, sign=1.0)
    torch.testing.assert_close(down * up, torch.ones(2))


def test_a_response_without_loss_tokens_weighs_one():
    weight = sequence_entropy(torch.full((1, 2), math.nan), torch.zeros(1, 2, dtype=torch.bool))
    assert weight.tolist() == [1.0]


def test_of_five_tokens_a_fifth_is_the_one_of_highest_entropy():
    """Worked example of a paper's formula, nobody's released output: floor(0.8 x 5) = 4 go."""
    entropy = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.7, 5.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert top_entropy(entropy, mask).tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@given(
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
)
def test_as_many_are_dropped_as_the_share_says_and_none_above_one_that_is_kept(values, drop):
    entropy = torch.tensor([values], dtype=torch.float64)
    kept = top_entropy(entropy, torch.ones_like(entropy, dtype=torch.bool), drop=drop)[0]
    assert int((kept == 0).sum()) == int(drop * len(values))
    if 0 < int(kept.sum()) < len(values):
        assert entropy[0][kept == 0].max() <= entropy[0][kept == 1].min()


def test_no_tokens_to_choose_from_is_no_error_and_a_wrong_share_is_one():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert top_entropy(torch.rand(2, 3), nothing).tolist() == [[1.0] * 3] * 2
    with pytest.raises(ValueError, match=r"drop must be in \[0, 1\], got 1.2"):
        top_entropy(torch.rand(2, 3), nothing, drop=1.2)
