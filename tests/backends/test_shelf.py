"""Resting tensors leave their device, views and all, and come back bitwise."""

import pytest
import torch

from didact.core.backends.models import load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.shelf import Shelf
from didact.core.backends.torch_learner import TorchLearner

TWO = {"main": OptimizerSpec(lr=1e-3), "sft": OptimizerSpec(lr=3e-3)}


def test_storages_are_emptied_and_filled_again_for_all_their_views():
    whole = torch.arange(12.0)
    first, second = whole[:4], whole.view(3, 4)[1]
    elsewhere = torch.empty(3, device="meta")
    shelf = Shelf(torch.device("cpu"))
    for _ in range(2):
        shelf.rest([first, whole, elsewhere])
        assert whole.untyped_storage().nbytes() == 0 and elsewhere.untyped_storage().nbytes() == 12
        shelf.rest([whole])  # it rests already
        shelf.wake()
        shelf.wake()
        assert torch.equal(whole, torch.arange(12.0)) and torch.equal(second, whole[4:8])
    second += 1
    assert whole[4] == 5.0


def test_a_resting_tensor_is_copied_without_being_woken():
    whole, awake = torch.arange(12.0).bfloat16(), torch.ones(2)
    across = whole.view(3, 4)[1:].t()
    shelf = Shelf(torch.device("cpu"))
    expected = across.clone()
    shelf.rest([whole])
    copies = shelf.copied(across), shelf.copied(awake)
    assert torch.equal(copies[0], expected) and torch.equal(copies[1], awake)
    assert whole.untyped_storage().nbytes() == 0
    for copy in copies:
        copy.zero_()
    shelf.wake()
    assert torch.equal(across, expected) and awake.all()


def test_what_has_nothing_in_it_rests_without_a_copy_and_comes_back_as_zeros():
    kept, blank = torch.arange(4.0), torch.arange(6.0)
    view = blank[2:4]
    shelf = Shelf(torch.device("cpu"))
    for _ in range(2):
        shelf.rest([kept], [blank, view, torch.empty(3, device="meta")])
        assert kept.untyped_storage().nbytes() == blank.untyped_storage().nbytes() == 0
        assert len(shelf.kept) == 1
        shelf.wake()
        assert torch.equal(kept, torch.arange(4.0)) and torch.equal(blank, torch.zeros(6))
        view += 1
        assert blank[2] == 1.0


def test_host_memory_is_used_again():
    shelf, tensor = Shelf(torch.device("cpu")), torch.ones(5)
    places = []
    for _ in range(2):
        shelf.rest([tensor])
        places += [host.data_ptr() for _, host in shelf.kept.values()]
        shelf.wake()
    assert len(places) == 2 and places[0] == places[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_learner_that_rests_learns_bitwise_what_one_that_does_not_learns(
    spec, tokenizer, mixed, rule, dtype
):
    def made(offload):
        model = load_model(spec.model_copy(update={"dtype": dtype}), tokenizer)
        return TorchLearner(model, tokenizer, TWO, offload=offload)

    def step(learner, at):
        return learner.update(mixed(at), rule, "main" if at % 2 else "sft", at)

    rests, stays = made(True), made(False)
    size = sum(p.numel() for p in stays.params)
    for at in range(4):
        assert step(rests, at) == step(stays, at)
        for learner in (rests, stays):
            learner.rest()
        lent = sum(host.numel() for _, host in rests.shelf.kept.values())
        moments = 2 * min(at + 1, 2)
        assert lent == 4 * size * (moments + (dtype == "bfloat16")) and not stays.shelf.kept
        assert all(t.untyped_storage().nbytes() == 0 for t in rests._resting())
        for a, b in zip(rests.weights(), stays.weights(), strict=True):
            assert torch.equal(a[1], b[1])
        rests.freeze(mixed(at).rows, frozenset({"ref_logprobs"}))
    state = rests.state_dict()
    assert all(t.untyped_storage().nbytes() == 0 for t in rests._resting())  # it is not woken
    again = made(True)
    again.load_state_dict(state)
    again.rest()
    assert step(again, 4) == step(stays, 4)
