"""Compiled layers are the same function; Liger's kernels are asked for as its interface says."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from didact.core.backends import attention, speed
from didact.core.backends.deepspeed_learner import DeepSpeedLearner
from didact.core.backends.models import load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RecipeError

ADAM = {"main": OptimizerSpec(lr=1e-3, eps=1e-5)}


@pytest.fixture
def restored():
    """Leaves transformers with the attention as it is."""
    yield
    attention.register()


def test_compiled_layers_learn_the_same(fresh, mixed, tokenizer, rule, restored):
    """Through torch.compile, whose last stage, C++, takes a minute and was compared by hand."""
    plain = TorchLearner(fresh(), tokenizer, ADAM)
    model = fresh()
    compiled = TorchLearner(model, tokenizer, ADAM, gradient_checkpointing=True)
    speed.compile_layers(model, backend="aot_eager")
    for at in range(2):
        assert plain.update(mixed(at), rule, "main", at) == pytest.approx(
            compiled.update(mixed(at), rule, "main", at), rel=1e-5, abs=1e-6
        )
    for (name, a), (same, b) in zip(plain.weights(), compiled.weights(), strict=True):
        assert name == same
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8  # not one for each length


def test_a_model_without_known_layers_is_not_compiled():
    with pytest.raises(RecipeError, match="finds no decoder layers"):
        speed.compile_layers(torch.nn.Linear(2, 2))


def test_sharded_parameters_are_not_compiled(model, tokenizer):
    with pytest.raises(RecipeError, match="not with ZeRO stage 3"):
        DeepSpeedLearner(model, tokenizer, ADAM, stage=3, compile=True)


def pretended(monkeypatch, kinds):
    """A labelled fake of liger-kernel 0.6: its names, and a record of how they were called."""
    called = []
    package, inner, patch = (
        ModuleType(name)
        for name in (
            "liger_kernel",
            "liger_kernel.transformers",
            "liger_kernel.transformers.monkey_patch",
        )
    )
    inner._apply_liger_kernel_to_instance = lambda model, **settings: called.append(settings)
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = dict.fromkeys(kinds)
    for module in (package, inner, patch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return called


def on_gpu(kind):
    parameter = SimpleNamespace(device=torch.device("cuda"))
    return SimpleNamespace(
        parameters=lambda: iter([parameter]), config=SimpleNamespace(model_type=kind)
    )


def test_ligers_layers_are_taken_and_its_losses_left(monkeypatch):
    called = pretended(monkeypatch, ["qwen3"])
    speed.hasten(on_gpu("qwen3"), liger=True, compiled=False)
    layers = {"rope": True, "rms_norm": True, "swiglu": True}
    assert called == [layers | {"cross_entropy": False, "fused_linear_cross_entropy": False}]


def test_what_liger_cannot_do_is_said(monkeypatch, spec, tokenizer):
    with pytest.raises(RecipeError, match=r"needs the library liger-kernel: pip install 'didact\["):
        TorchLearner(load_model(spec, tokenizer), tokenizer, ADAM, liger=True)
    called = pretended(monkeypatch, ["qwen3"])
    with pytest.raises(RecipeError, match="run on a GPU, and the model is on the CPU"):
        TorchLearner(load_model(spec, tokenizer), tokenizer, ADAM, liger=True)
    with pytest.raises(RecipeError, match="no kernels for 'other', only for qwen3"):
        speed.hasten(on_gpu("other"), liger=True, compiled=False)
    assert called == []
