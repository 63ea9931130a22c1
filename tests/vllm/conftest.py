"""A small model that vLLM serves on a CPU, one learner, and one engine for all tests of a file."""

import pytest
import torch

from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.protocols import Request


@pytest.fixture(scope="session")
def spec():
    """Heads of 32: vLLM's attention on a CPU has no smaller ones. Tied embeddings."""
    small = quickstart_model() | {"num_hidden_layers": 2, "head_dim": 32}
    return ModelSpec(config=small, tokenizer="characters")


@pytest.fixture(scope="session")
def tokenizer(spec):
    return load_tokenizer(spec)


@pytest.fixture(scope="session")
def learner(spec, tokenizer):
    """Weights far from their start, so that distributions are not nearly uniform."""
    made = load_model(spec, tokenizer)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.08)
    return TorchLearner(made, tokenizer, {"main": OptimizerSpec(lr=1e-3)})


@pytest.fixture
def requests():
    draw = torch.Generator().manual_seed(1)
    sizes = torch.randint(1, 30, (24,), generator=draw).tolist()
    return [
        Request(torch.randint(3, 99, (size,), generator=draw), seed=2**62 + at)
        for at, size in enumerate(sizes)
    ]
