"""Runs: resuming is exact, a seed decides everything, signals leave a state behind."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from finished_runs import LEARNS, RELIFT, assert_same_model, parameters, rows, timeless

from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RecipeError, RunError
from didact.core.folder import RunFolder


def test_two_and_two_steps_equal_four_bitwise(run):
    whole = run("relift", *RELIFT, folder="whole")
    halves = ("checkpoint.every=2", "checkpoint.keep=9")
    first = run("relift", *RELIFT, *halves, folder="halves")
    # take the run back to its state after two steps, as if it had been killed then
    shutil.rmtree(first / "final")
    run("relift", *RELIFT, *halves, folder="halves", resume=True)
    assert_same_model(whole, first)
    assert [timeless(r) for r in rows(whole)] == [timeless(r) for r in rows(first)]


def test_the_test_above_would_notice_a_lost_optimizer_state(run, tmp_path, monkeypatch):
    from didact.core.backends.optim import NamedAdamW

    whole = run("relift", *RELIFT, folder="whole")
    run("relift", *RELIFT, "checkpoint.every=2", folder="halves")
    monkeypatch.setattr(NamedAdamW, "restore", lambda self, params, state: None)
    shutil.rmtree(tmp_path / "halves" / "final")
    halves = run("relift", *RELIFT, "checkpoint.every=2", folder="halves", resume=True)
    assert any(not torch.equal(a, parameters(halves)[n]) for n, a in parameters(whole).items())


def test_with_offload_a_learner_rests_whenever_its_generator_works(run, monkeypatch):

    held = []
    followed: dict[HFGenerator, TorchLearner] = {}
    resume, generate = HFGenerator.resume, HFGenerator.generate

    def noted(generator):
        held.append(sum(t.untyped_storage().nbytes() for t in followed[generator]._resting()))

    def resumed(self, learner, version):
        followed[self] = learner
        noted(self)
        resume(self, learner, version)

    def generated(self, requests, sampling):
        noted(self)
        return generate(self, requests, sampling)

    monkeypatch.setattr(HFGenerator, "resume", resumed)
    monkeypatch.setattr(HFGenerator, "generate", generated)
    half = (
        "evaluation=null",
        "models.policy.dtype=bfloat16",
        "learner={use: torch, offload: true}",
    )
    folder = run("grpo", "steps=2", "checkpoint.every=1", *half, *LEARNS)
    shutil.rmtree(folder / "final")
    run("grpo", "steps=2", "checkpoint.every=1", *half, *LEARNS, resume=True)
    assert len(held) > 4 and set(held) == {0}


def test_the_same_seed_gives_the_same_run_and_another_seed_another(run):
    one = run("relift", *RELIFT, folder="one")
    same = run("relift", *RELIFT, folder="same")
    other = run("relift", *RELIFT, "seed=1", folder="other")
    assert_same_model(one, same)
    assert [timeless(r) for r in rows(one)] == [timeless(r) for r in rows(same)]
    assert any(not torch.equal(a, parameters(other)[n]) for n, a in parameters(one).items())


def test_a_half_written_state_is_never_picked_up(run):
    folder = run("grpo", "steps=4", "checkpoint.every=2", *LEARNS)
    partial = folder / "checkpoints" / "step-000003.partial"
    partial.mkdir()
    (partial / "rank-0.pt").write_bytes(b"half")
    shutil.rmtree(folder / "final")
    run("grpo", "steps=4", "checkpoint.every=2", *LEARNS, resume=True)
    assert [row["step"] for row in rows(folder)] == [1, 2, 3, 4]


def test_a_run_that_failed_before_it_began_is_begun_again_with_another_recipe(run):
    with pytest.raises(RecipeError, match="there is no folder"):
        run("sft", "steps=1", "models.policy={path: /gone}", "base=null")
    folder = run("sft", "steps=1")
    assert (folder / "final").is_dir()


def test_two_processes_never_train_in_one_folder(run):
    folder = run("sft", "steps=1")
    with RunFolder(folder).held(), pytest.raises(RunError, match="another process is training in"):
        run("sft", "steps=1", resume=True)
    assert not (folder / "error.txt").exists()


def test_a_folder_in_use_is_not_overwritten_and_another_recipe_not_resumed(run):
    run("grpo", "steps=1", *LEARNS)
    with pytest.raises(RunError, match="holds a run already"):
        run("grpo", "steps=1", *LEARNS)
    with pytest.raises(RunError, match="was started with another recipe"):
        run("grpo", "steps=2", *LEARNS, resume=True)


def test_the_final_model_loads_with_transformers(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = run("sft", "steps=1")
    model = AutoModelForCausalLM.from_pretrained(folder / "final")
    tokenizer = AutoTokenizer.from_pretrained(folder / "final")
    ids = tokenizer("RL:abcde\n", return_tensors="pt").input_ids
    assert model(ids).logits.shape[-1] == len(tokenizer)


def test_a_recipe_without_anything_to_train_says_so(run):
    with pytest.raises(RecipeError, match="nothing to train"):
        run("letters")


def test_a_budget_ends_the_run_with_the_step_that_reaches_it(run):
    folder = run("sft", "steps=50", "budget.demonstrations=10")
    assert [row["spent/demonstrations"] for row in rows(folder)] == [4, 8, 12]


def test_a_damaged_state_is_named_with_the_way_on(run):
    folder = run("grpo", "steps=3", "checkpoint.every=1", *LEARNS)
    shutil.rmtree(folder / "final")
    (state,) = (folder / "checkpoints").iterdir()
    whole = (state / "rank-0.pt").read_bytes()
    for left in (whole[: len(whole) // 2], b""):
        (state / "rank-0.pt").write_bytes(left)
        with pytest.raises(RunError, match=f"damaged; delete {state}"):
            run("grpo", "steps=3", "checkpoint.every=1", *LEARNS, resume=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def save(*_):
        try:
            full()
        finally:  # as the real one does when it closes its file
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    recipe = ("grpo", "steps=3", "checkpoint.every=1", *LEARNS)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        with pytest.raises(RunError, match=r"run: cannot be written: No space left on device\."):
            run(*recipe)
    folder = run(*recipe, resume=True)
    with monkeypatch.context() as patched:  # nor does an attempt to resume cost the recipe
        patched.setattr(Path, "write_text", full)
        shutil.rmtree(folder / "final")
        with pytest.raises(RunError, match="cannot be written"):
            run(*recipe, resume=True)
    run(*recipe, resume=True)
    assert [row["step"] for row in rows(folder)] == [1, 2, 3]


def test_a_read_only_folder_is_one_line(run, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(RunError, match=r"run: cannot be written: Read-only file system\."):
        run("grpo", "steps=1", *LEARNS)


def test_a_last_line_without_its_end_does_not_swallow_the_next(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}')
    RunFolder(tmp_path).truncate_logs(2, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_resumed_run_forgets_evaluations_after_the_step_it_resumes_from(tmp_path):
    folder = RunFolder(tmp_path)
    folder.evaluation(0).parent.mkdir()
    for step in (0, 2, 3):
        folder.evaluation(step).write_text("{}")
    folder.truncate_logs(3, 2)
    assert sorted(folder.evaluation(0).parent.iterdir()) == [*map(folder.evaluation, (0, 2))]


def test_tensorboard_shows_each_step_of_a_resumed_run_once(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = ("grpo", "steps=4", "checkpoint.every=2", "observers=[tensorboard]", *LEARNS)
    folder = run(*recipe)
    shutil.rmtree(folder / "final")
    run(*recipe, resume=True)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("rl/loss")] == [1, 2, 3, 4]


def test_a_run_does_not_go_on_with_other_data(run, tmp_path):
    data = tmp_path / "data.jsonl"
    lines = [json.dumps({"question": f"RL:{w}\n", "answer": w}) + "\n" for w in ("abc", "bca")]
    data.write_text("".join(lines))
    own = f"{{use: jsonl, path: {data}}}"
    mixed = f"task={{use: mixture, tasks: {{own: {own}, more: letters}}}}"
    for folder, task, name in (("a", f"task={own}", "task"), ("b", mixed, "task.tasks.own")):
        data.write_text("".join(lines))
        recipe = ("grpo", "steps=2", "sampler.prompts=2", "checkpoint.every=1", task, *LEARNS)
        made = run(*recipe, folder=folder)
        shutil.rmtree(made / "final")
        data.write_text("".join(lines[::-1]))
        with pytest.raises(RunError, match=f"began with another file than .* for {name};"):
            run(*recipe, folder=folder, resume=True)
        data.write_text("".join(lines))
        run(*recipe, folder=folder, resume=True)
