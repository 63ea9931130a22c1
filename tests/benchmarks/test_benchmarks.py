"""The benchmark scripts run, measure what they say, and read their bars right; no timing here."""

import argparse
import json
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_every_benchmark_is_in_the_readme():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"`{name}.py`" not in readme] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_is_short_and_begins_with_what_it_is(name):
    lines = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith('"""')
    assert len(lines) <= 300


def test_every_loss_weight_and_advantage_is_timed_and_so_are_the_rules_around_them(script):
    from didact.plugins.manager import load

    speed = script("loss_speed")
    size = speed.Size(rows=16, width=12, group=4, mean=5)
    found = speed.measured(size, torch.device("cpu"), 1, ())
    registered = [e.name for e in load(installed=False).entries() if e.kind in speed.MEASURED]
    assert sorted(row.name for row in found if row.what in speed.MEASURED) == sorted(registered)
    assert {row.what for row in found} == {*speed.MEASURED, "stage", "rule"}


def test_a_model_is_timed_per_token_of_its_sample(script, restored):
    speed, tiny = script("loss_speed"), script("gpu_workload").TINY
    taken, tokens = speed.seconds_per_token("float32", torch.device("cpu"), 16, 1, tiny.config)
    assert tokens == 16 and taken.least <= taken.median


def test_natural_lengths_reach_the_limit_and_have_the_mean(script):
    lengths = script("workload").natural_lengths(512, 1024, 250.0)
    assert max(lengths) == 1024 and min(lengths) >= 1
    assert sum(lengths) / 512 == pytest.approx(250, rel=0.1)


def test_the_host_benchmark_runs_the_real_step_with_its_two_fakes(script, restored):
    from didact.core import score, session
    from didact.core.backends import forward, hf_generator, optim

    for owner, names in (
        (hf_generator.HFGenerator, ("generate", "sync")),
        (forward.Readouts, ("forward",)),
        (optim.NamedAdamW, ("step",)),
        (score, ("_call",)),
        (session, ("train", "notify")),
    ):
        for name in names:
            restored(owner, name)
    host = script("host_overhead")
    chosen = argparse.Namespace(recipe="grpo", prompts=2, longest=20, mean=8.0, steps=2)
    marks = host.train(chosen)
    assert len(marks) == 1  # the first one warms up
    assert {"step", *host.FAKES, *host.OTHERS, "observers"} <= set(marks[0])
    assert "framework" in "\n".join(host.described(marks))


def test_methods_timed_at_one_depth_count_only_outside_of_each_other(script):
    clocks = script("clocks")

    class Work:
        def outer(self):
            self.inner()

        def inner(self):
            pass

    ticks = iter(range(100))
    spent, depth = dict.fromkeys(("outer", "inner"), 0.0), clocks.Depth()
    for name in spent:
        clocks.timed(Work, name, name, spent, lambda: next(ticks), depth)
    Work().outer()
    assert spent == {"outer": 2.0, "inner": 0.0}
    Work().inner()
    assert spent["inner"] == 1.0


STEP = {"step": 6.0, "tokens": 120.0, "floor": 5.0}


def test_bars_are_met_missed_or_not_measured(script):
    gpu = script("gpu_step")
    found = {
        "didact": gpu.medians([STEP, {**STEP, "step": 5.0}, STEP]),
        "trl_tuned": gpu.medians([{"step": 12.0, "tokens": 120.0}]),
    }
    assert found["didact"]["step"] == 6.0 and found["didact"]["tokens_per_second"] == 20.0
    floor, tuned, default, ahead = gpu.bars(found)
    assert floor.measured == pytest.approx(1.2) and floor.met is False
    assert tuned.measured == pytest.approx(2.0) and tuned.met is True
    assert default.met is None and "not measured" in str(default)
    assert ahead.met is None


def test_stop_ids_are_a_list_that_knows_its_members(script):
    work = script("gpu_workload")
    ids = work.StopIds(work.stop_ids(work.W1))
    assert isinstance(ids, list) and len(ids) == 600 == len(set(ids))
    assert ids[3] in ids and 5 not in ids
    assert min(ids) >= 128 and max(ids) < work.W1.config["vocab_size"]


@pytest.mark.parametrize("recipe", ["grpo", "grpo_async"])
def test_the_workload_is_a_valid_recipe(script, tmp_path, recipe):
    from didact.configs.document import read
    from didact.configs.load import check
    from didact.plugins.manager import load

    contestants, work = script("gpu_contestants"), script("gpu_workload")
    given = contestants.overrides(tmp_path, work.TINY, 5, ["learner.entropy=false"])
    made = check(read(recipe, given), load(installed=False))
    assert made.generator.use == "vllm" and made.sampler.params.prompts == work.TINY.prompts
    assert made.experience[0].params.source.params.n == work.TINY.group


def test_prepared_models_differ_in_their_stop_ids_alone(script, tmp_path):
    from transformers import AutoTokenizer

    work = script("gpu_workload")
    work.prepare(tmp_path, work.TINY)
    ends = {
        name: json.loads((tmp_path / name / "generation_config.json").read_text())["eos_token_id"]
        for name in ("policy", "plain")
    }
    assert ends == {"policy": [2, *work.stop_ids(work.TINY)], "plain": 2}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ends]
    assert weights[0] == weights[1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(tokenizer) == work.TINY.config["vocab_size"]
    problems = (tmp_path / "questions.jsonl").read_text().splitlines()
    lengths = {len(tokenizer(json.loads(line)["question"])["input_ids"]) for line in problems}
    assert min(lengths) >= work.TINY.shortest and max(lengths) <= work.TINY.longest_prompt
