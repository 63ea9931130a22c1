"""Predicted memory agrees with what is measured while a learner updates."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from didact.core.backends import footprint, sampling
from didact.core.backends.footprint import Shape, Training
from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.models import load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.types import Request, Sampling

SEVEN = Shape(7_615_616_512, 7_615_616_512, 3584, 28, 28, 3584, 512, 18944, 152064, False)
"""Qwen2.5-7B."""


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_of_an_update_is_measured_within_15_percent(
    apart, tokenizer, dtype, checkpointing
):
    def made(model, settings):
        return TorchLearner(model, tokenizer, {"main": OptimizerSpec()}, device="cpu", **settings)

    held, peak = apart(made, None, dtype, checkpointing)
    assert abs(held) < 0.01 and abs(peak) < 0.15, (held, peak)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "how", [Sampling(), Sampling(temperature=0.7), Sampling(temperature=0.7, top_p=0.9)]
)
def test_drawing_tokens_holds_what_is_said_of_it(peak_of, how, dtype):
    logits = torch.randn(8, 5000, generator=torch.Generator().manual_seed(0)).to(dtype)
    uniform = torch.full((8,), 0.5, dtype=torch.float64)
    measured = peak_of(lambda: sampling.draw(logits, uniform, how)) / logits.numel()
    assert measured == pytest.approx(sampling.held(how), rel=0.01)


@pytest.mark.parametrize(
    ("vocabulary", "prompt", "response", "how"),
    [
        (32000, 16, 5, {}),
        (32000, 16, 5, {"temperature": 0.7, "top_p": 0.9}),
        (200, 100, 3, {}),
        (200, 16, 60, {}),
    ],
    ids=["drawing", "drawing from the nucleus", "prompts", "cache"],
)
def test_the_peak_of_generation_is_measured_within_5_percent(
    spec, tokenizer, peak_of, vocabulary, prompt, response, how
):
    config = spec.config | {"vocab_size": vocabulary}
    model = load_model(spec.model_copy(update={"config": config}), tokenizer)
    generator = HFGenerator(model, tokenizer, device="cpu")
    generator.ends = generator.ends[:0]  # every response is as long as it can be
    requests = [Request(torch.full((prompt,), 5), seed) for seed in range(24)]
    asked = Sampling(max_tokens=response, **how)
    measured = peak_of(lambda: generator.generate(requests, asked))
    shape = Shape.of(model, model.config)
    drawing = sampling.held(asked)
    found = footprint.decoding(shape, 4, len(requests), prompt, response, drawing)
    assert footprint.total(found) == pytest.approx(measured, rel=0.05)


def test_a_shape_is_read_from_a_model_without_weights():
    config = Qwen2Config(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, vocab_size=100, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        shape = Shape.of(Qwen2ForCausalLM(config), config)
    assert shape == replace(shape, hidden=64, layers=3, queries=64, keys=32, inner=96, normed=False)
    layer = 64 * (64 + 2 * 32 + 64 + 3 * 96) + 64 + 64 + 2 * 64
    assert shape.parameters == 100 * 64 + 64 + 3 * layer == shape.trained


def test_a_7b_model_in_bfloat16_holds_what_is_known_of_it():
    """2 bytes of weights, 4 of masters, 8 of moments for each parameter; ZeRO shares them out."""
    alone = footprint.held(SEVEN, Training(width=2))
    assert footprint.total(alone) == 14 * SEVEN.parameters
    shared = footprint.held(SEVEN, Training(width=2, stage=2, ranks=8))
    assert footprint.total(shared) == (2 + 12 / 8) * SEVEN.parameters
    read = footprint.held(SEVEN, Training(width=2, optimizers=0))
    assert read == {"weights": 2 * SEVEN.parameters}
    assert footprint.lent(SEVEN, Training(width=2, offload=True)) == 12 * SEVEN.parameters


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_all_but_the_weights_is_lent(stage, width):
    how = Training(width=width, stage=stage, ranks=8, offload=True)
    held = footprint.held(SEVEN, how)
    assert footprint.lent(SEVEN, how) == pytest.approx(sum(held.values()) - held["weights"])
    assert footprint.lent(SEVEN, replace(how, offload=False)) == 0.0
    assert footprint.lent(SEVEN, replace(how, optimizers=0)) == 0.0


def test_what_saves_memory_is_predicted_to_save_memory():
    plain = Training(width=2, stage=2, ranks=8, varlen=True)
    less = [
        replace(plain, checkpointing=True),
        replace(plain, tokens=plain.tokens // 2, responses=plain.responses // 2),
        replace(plain, ranks=16),
    ]
    peak = footprint.total(footprint.learning(SEVEN, plain))
    assert all(footprint.total(footprint.learning(SEVEN, how)) < peak for how in less)


def test_a_cache_holds_two_tensors_a_layer():
    assert footprint.cache(SEVEN, 2, 1000) == 2 * 2 * 28 * 512 * 1000
