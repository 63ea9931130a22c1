"""The probe on any generator (here the one of transformers), and the comparison of tensors."""

from dataclasses import replace

import pytest
import torch

from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.models import load_model
from didact.core.backends.probe import Probe, differing, product, products_of_engine, said
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RunError
from didact.core.world import Alone

KEYS = "model.layers.0.self_attn.k_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def served(spec, tokenizer, learner):
    made = HFGenerator(load_model(spec, tokenizer), tokenizer)
    made.resume(learner, 0)
    return made


def gap(generator, learner, temperature=1.0):
    return Probe(99, temperature, 1e-4).gap(generator.generate, learner, Alone())


def test_equal_weights_have_no_gap(served, learner):
    assert gap(served, learner) < 1e-6


def test_it_follows_the_learners_temperature(served, learner, tokenizer):
    warm = TorchLearner(learner.model, tokenizer, {}, temperature=0.7)
    assert gap(served, warm, 0.7) < 1e-6
    assert gap(served, warm, 1.0) > 0.01
    learner.model.requires_grad_(True)


@pytest.mark.parametrize("change", ["scaled", "permuted", "zero"])
def test_a_wrong_tensor_opens_a_gap(served, learner, change):
    target = dict(served.model.named_parameters())[DOWN].data
    edits = {
        "scaled": target * 1.1,
        "permuted": target.roll(1, 1),
        "zero": target * 0,
    }
    target.copy_(edits[change])
    probe = Probe(99, 1.0, 1e-4)
    apart = probe.gap(served.generate, learner, Alone())
    assert apart > 1e-4
    with pytest.raises(RunError, match=r"sync 4: .*it was this one"):
        probe.check(apart, 4, lambda: "it was this one")


def test_below_its_threshold_it_does_not_search(served, learner):
    Probe(99, 1.0, 1e-4).check(1e-5, 1, lambda: pytest.fail("searched"))


@pytest.mark.parametrize(("by", "gap"), [(0.5, 0.05), (torch.nan, torch.inf)])
def test_one_token_may_be_ten_times_the_threshold_apart(served, learner, by, gap):
    def generate(requests, sampling):
        samples = list(served.generate(requests, sampling))
        off = samples[0].logprobs.clone()
        off[0] += by
        return [replace(samples[0], logprobs=off), *samples[1:]]

    assert Probe(99, 1.0, 1e-4).gap(generate, learner, Alone()) == pytest.approx(gap, abs=1e-5)


def own(learner):
    return {name: value.clone() for name, value in learner.weights()}


def test_products_of_a_plain_model_are_the_learners(served, learner):
    seen = products_of_engine(served.model)
    assert differing(seen, learner.weights(), {}, torch.float32) == ([], [], [])


@pytest.mark.parametrize("dim", [0, 1])
def test_a_tensor_with_two_rows_or_columns_exchanged_is_named(served, learner, dim):
    target = dict(served.model.named_parameters())[KEYS].data
    order = torch.arange(target.shape[dim])
    order[[0, 1]] = order[[1, 0]]
    target.copy_(target.index_select(dim, order))
    seen = products_of_engine(served.model)
    assert differing(seen, learner.weights(), {}, torch.float32)[0] == [KEYS]


def test_fused_tensors_are_taken_apart_and_padding_is_ignored(learner):
    ours = own(learner)
    at = "model.layers.0.self_attn."
    fused = torch.cat([ours.pop(at + part + "_proj.weight") for part in "qkv"])
    engine = {name: (True, product(value).tolist()) for name, value in ours.items()}
    padded = torch.cat([ours["model.embed_tokens.weight"], torch.ones(7, 96)])
    engine["model.embed_tokens.weight"] = (True, product(padded).tolist())
    engine[at + "qkv_proj.weight"] = (False, product(fused).tolist())
    parts = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    rough = [at + part + "_proj.weight" for part in "qkv"]
    assert differing(engine, learner.weights(), parts, torch.float32) == ([], [], rough)
    wrong = own(learner)
    wrong[KEYS] = wrong[KEYS] + 1e-3
    assert differing(engine, wrong.items(), parts, torch.float32)[0] == [KEYS]


def test_a_tied_head_is_compared_with_the_embedding(learner):
    engine = {name: (True, product(value).tolist()) for name, value in learner.weights()}
    _, head = engine["model.embed_tokens.weight"]
    engine["lm_head.weight"] = (False, [value * 1.01 for value in head])
    apart = differing(engine, learner.weights(), {}, torch.float32).apart
    assert apart == ["lm_head.weight (of model.embed_tokens.weight)"]


def test_what_only_one_side_has_is_said(learner):
    ours = own(learner)
    engine = {name: (True, product(value).tolist()) for name, value in ours.items()}
    less = {name: value for name, value in ours.items() if name != KEYS}
    assert differing(engine, less.items(), {}, torch.float32)[0] == [
        f"{KEYS} (not among the learner's)"
    ]
    engine.pop(KEYS)
    found = differing(engine, ours.items(), {}, torch.float32)
    assert found == ([], [KEYS], [])
    assert said(*found) == ("Which tensors differ is not known: 1 tensors could not be compared.")
    assert said([], []).startswith("All tensors are equal")
    assert said([KEYS], []) == f"Tensors that differ: {KEYS}."


def test_what_was_read_exactly_is_compared_exactly(learner):
    half = {name: value.bfloat16() for name, value in learner.weights()}
    one = next(iter(half))
    other = half | {one: torch.nextafter(half[one], half[one] + 1)}
    for exact, apart, rough in ((True, [one], []), (False, [], list(half))):
        engine = {name: (exact, product(value).tolist()) for name, value in other.items()}
        found = differing(engine, half.items(), {}, torch.bfloat16)
        assert (found.apart, found.rough) == (apart, rough)


def test_equality_is_not_said_of_what_was_only_seen_rounded():
    assert said([], [], [DOWN]).startswith(
        f"All tensors are equal but those compared only within rounding: {DOWN}. They may differ"
    )
    assert said([KEYS], [], [DOWN]) == (
        f"Tensors that differ: {KEYS}. Compared only within rounding: {DOWN}."
    )


class QuantMethod:
    """FAKE: a layer's kernel in vLLM, whose weight was packed away."""

    def __init__(self, weight):
        self.kept = weight

    def apply(self, module, fed, bias):
        return fed @ self.kept.T


class UnquantizedMethod(QuantMethod):
    """FAKE: one that computes with the weight as it is."""


@pytest.mark.parametrize("method", [QuantMethod, UnquantizedMethod])
def test_a_packed_weight_is_read_exactly_unless_it_is_quantised(method):
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 1100, generator=draw).bfloat16()
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.empty(0, dtype=torch.bfloat16))
    layer.quant_method, layer.input_size_per_partition = method(weight), 1100
    read, values = products_of_engine(torch.nn.Sequential(layer))["0.weight"]
    apart = (torch.tensor(values, dtype=torch.float64) - product(weight)).abs().max()
    assert (read, bool(apart < 1e-11)) == ((method is UnquantizedMethod),) * 2
