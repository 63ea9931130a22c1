"""The DeepSpeed learner equals the torch learner: ZeRO 0 to 3, on 1 and 2 ranks, CPU over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("deepspeed")
pytest.importorskip("peft")
from didact.core.backends.deepspeed_engine import merged
from didact.core.backends.deepspeed_learner import DeepSpeedLearner
from didact.core.backends.models import load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.errors import RecipeError

STAGES = ("stage 0", "stage 1", "stage 2", "stage 3")


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def found(request, tmp_path_factory):
    """What ranks.py found, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(request.param)]
    command += [str(Path(__file__).with_name("ranks.py")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-4000:]
    files = [folder / f"found-{rank}.json" for rank in range(request.param)]
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_after_five_steps_of_two_optimizers_agree(found, stage):
    assert all(rank[stage]["parameters"] <= 1e-6 for rank in found), found


@pytest.mark.parametrize("stage", STAGES)
def test_reports_and_frozen_columns_agree(found, stage):
    assert all(rank[stage]["reports"] <= 1e-5 for rank in found), found
    assert all(rank[stage]["frozen"] <= 1e-6 for rank in found), found


@pytest.mark.parametrize("stage", STAGES)
def test_steps_that_are_not_finite_are_refused_on_every_rank(found, stage):
    assert all(rank[stage]["refused"] for rank in found)


@pytest.mark.parametrize("stage", STAGES)
def test_moments_and_masters_leave_the_device_between_updates(found, stage, spec, tokenizer):
    """The run that resumes does; in float32, 2 x 2 moments, and from stage 1 masters, too."""
    model = sum(p.numel() for p in load_model(spec, tokenizer).parameters())
    for rank in found:
        least = 4 * (4 + (stage != "stage 0")) * model / (1 if stage == "stage 0" else len(found))
        assert all(lent >= least for lent in rank[stage]["lent"]), (least, rank[stage]["lent"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_continues_bitwise(found, stage):
    assert all(rank[stage]["resumed"] == 0.0 for rank in found)


@pytest.mark.parametrize("stage", STAGES)
def test_the_gathered_model_is_saved_as_it_is(found, stage):
    assert found[0][stage]["saved"] == 0.0


def test_weights_gathered_in_many_buckets_are_those_of_one(found):
    """Those of the model, and those that adapters of other buckets are merged into."""
    for rank in found:
        for kind in (*(rank[stage] for stage in STAGES), *rank["low"].values()):
            assert kind["gathered"][0] == 0.0 and kind["gathered"][1] > 5, kind


def test_bfloat16_is_within_one_unit_in_the_last_place_of_the_torch_learner(found):
    for rank in found:  # parameters up to 1, whose bfloat16 neighbour is 2^-8 below
        assert all(half["apart"] <= 2**-8 for half in rank["bfloat16"].values()), rank["bfloat16"]
        assert all(half["resumes"] for half in rank["bfloat16"].values()), rank["bfloat16"]


def test_bfloat16_at_rest_holds_the_weights_alone_and_learns_bitwise_the_same(found):
    """2 bytes a parameter; stage 3 shards them, and keeps whole copies of small ones besides."""
    for rank in found:
        for stage, half in rank["bfloat16"].items():
            wanted = 2 + 2 / len(found) if stage == "3" and len(found) > 1 else 2
            assert half["rested"]["held"] == pytest.approx([wanted] * 3, abs=0.01), (stage, half)
            assert half["rested"]["apart"] == 0.0, (stage, half)


def test_out_of_memory_on_one_rank_halves_the_budget_of_all_and_gives_the_same_step(found):
    for rank in found:
        if len(found) == 1:
            said = rank["short"]["3"]
            assert "stage 3, where no rank can try again; set learner.max_tokens below 80" in said
        else:
            assert all(apart == 0.0 and left < 40 for apart, left in rank["short"].values())
    assert all(rank["short"] == found[0]["short"] for rank in found)


def test_adapters_agree_with_the_torch_learner_and_resume_bitwise(found):
    for rank in found:
        for stage, low in rank["low"].items():
            assert low["parameters"] <= 1e-6 and low["resumed"] == low["base"] == 0.0, (stage, low)
            assert low.get("saved", 0.0) == 0.0 and low.get("bfloat16", 0.0) <= 2**-8, (stage, low)
            assert 1.0 <= low["state"] < 1.1, (stage, low)  # what learns, and padding


def test_the_memory_of_an_update_is_what_the_plan_says(found):
    """In one process; on CPU, gloo holds buffers of its own for more."""
    for held, peak in found[0].get("footprints", {}).values():
        assert abs(held) < 0.01 and abs(peak) < 0.15, found[0]["footprints"]
    assert ("footprints" in found[0]) == (len(found) == 1)


def test_a_model_that_is_only_read_needs_no_engine(model, tokenizer, batch):
    learner = DeepSpeedLearner(model, tokenizer, {})
    assert learner.engine is None
    assert "ref_logprobs" in learner.freeze(batch.rows, frozenset({"ref_logprobs"}))[0].columns


def test_stage_0_in_bfloat16_is_refused(model, tokenizer):
    with pytest.raises(RecipeError, match="stage 0 computes in float32"):
        DeepSpeedLearner(model.to(torch.bfloat16), tokenizer, {"main": OptimizerSpec()}, stage=0)


def test_settings_are_merged_over_ours():
    ours = {"zero_optimization": {"stage": 2, "a": 1}, "b": 1}
    assert merged(ours, {"zero_optimization": {"a": 2}, "c": 3}) == {
        "zero_optimization": {"stage": 2, "a": 2},
        "b": 1,
        "c": 3,
    }
