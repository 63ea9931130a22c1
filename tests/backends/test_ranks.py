"""Effective ranks as a readout: taken from the right hidden states, and put back together."""

import pytest
import torch

from didact.algorithms.effective_rank import effective_rank, rank_dynamics, rank_indicators
from didact.core.backends.forward import Readouts
from didact.core.ranks import RANK_STRIDES, rank_column


def rows(*sizes):
    draw = torch.Generator().manual_seed(2)
    return [
        (torch.randint(3, 99, (4,), generator=draw), torch.randint(3, 99, (n,), generator=draw))
        for n in sizes
    ]


@pytest.mark.parametrize("packing", [True, False])
def test_the_ranks_are_those_of_the_models_last_hidden_states(model, packing):
    given = rows(18, 5)
    found = Readouts(model, packing=packing).read(given, frozenset({"ranks8", "logprobs"}))
    for at, (context, response) in enumerate(given):
        ids = torch.cat([context, response])[None, :-1]
        hidden = model.base_model(ids).last_hidden_state[0, len(context) - 1 :].detach()
        wanted = torch.zeros(18)
        for end in {8, 16, len(response) - 1} & set(range(len(response))):
            wanted[end] = effective_rank(hidden[: end + 1])
        torch.testing.assert_close(found["ranks8"][at], wanted, rtol=1e-4, atol=1e-4)
    assert found["logprobs"].requires_grad


def test_ranks_alone_are_read_without_logits_and_never_have_a_gradient(model):
    (column,) = Readouts(model).read(rows(9), frozenset({"ranks8"})).values()
    assert (column > 0).nonzero()[:, 1].tolist() == [8] and not column.requires_grad


@pytest.mark.parametrize("length", [0, 1, 3, 8, 9, 16, 17, 20, 33])
def test_indicators_of_the_readout_are_the_dynamics_of_the_hidden_states(length):
    hidden = torch.randn(length, 6, generator=torch.Generator().manual_seed(length)).cumsum(0)
    column = torch.zeros(40)
    column[:length] = rank_column(hidden, 8)
    found = torch.stack(list(rank_indicators(column[None]).values()), 1)[0]
    wanted = rank_dynamics(hidden, stride=8) if length else torch.zeros(3)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_names_of_rank_readouts_sort_after_all_others_of_a_language_model(model):
    assert sorted(Readouts(model).offers)[-len(RANK_STRIDES) :] == sorted(RANK_STRIDES)
