"""Signals: a state is written, and what was broken off is made up for, once."""

import errno
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from finished_runs import RELIFT, assert_same_model, rows, timeless

from didact.core.backends.hf_generator import HFGenerator
from didact.core.errors import RunError
from didact.core.folder import RunFolder
from didact.core.session import Session

SEEN = "evaluation={task: {use: letters, split: test, size: 6}, every: 2, samples: 2, ks: [2]}"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_state_and_exits_cleanly(tmp_path, kind):
    from conftest import TINY  # the same overrides, on the command line

    out = tmp_path / "run"
    command = [sys.executable, "-c", "from didact.configs.cli import main; main()"]
    arguments = ["train", "sft", *TINY, "steps=100000", "--out", str(out)]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    (state,) = (out / "checkpoints").iterdir()
    assert int(state.name.removeprefix("step-")) == len(rows(out))


class Asked:
    """Counts the greedy and sampled calls of a generator, and sends a signal before one of them."""

    def __init__(self, monkeypatch):
        self.calls, self.at = [], None
        inner = HFGenerator.generate

        def generate(generator, requests, sampling):
            self.calls.append("sampled" if sampling.temperature else "greedy")
            if (self.calls[-1], self.calls.count(self.calls[-1])) == self.at:
                signal.raise_signal(signal.SIGTERM)
                assert self.calls[-1] == "sampled", "the evaluation went on"
            return inner(generator, requests, sampling)

        monkeypatch.setattr(HFGenerator, "generate", generate)

    def next(self, at=None):
        self.calls, self.at = [], at


@pytest.fixture
def asked(monkeypatch):
    return Asked(monkeypatch)


def assert_same_run(whole, other):
    assert_same_model(whole, other)
    assert [timeless(r) for r in rows(whole)] == [timeless(r) for r in rows(other)]


@pytest.mark.parametrize(
    ("at", "done"),
    [(("greedy", 1), 2), (("greedy", 2), 4), (("sampled", 2), 2), (("sampled", 4), 4)],
)
def test_what_a_signal_breaks_off_a_resumed_run_makes_up_for(run, asked, at, done):
    """In an evaluation, or in a step that one follows: the state comes first."""
    whole = run("relift", SEEN, *RELIFT, folder="whole")
    asked.next(at)
    other = run("relift", SEEN, *RELIFT, folder="other")
    assert asked.calls.count("greedy") == done / 2 - (at[0] == "sampled")
    assert [step for step, _ in RunFolder(other).states()] == [done]
    assert not (other / "final").exists()
    asked.next()
    run("relift", SEEN, *RELIFT, folder="other", resume=True)
    assert_same_run(whole, other)


def test_an_evaluation_is_in_the_record_once_whatever_happens_after_it(run, asked):
    whole = run("relift", SEEN, *RELIFT, folder="whole")
    asked.next(("greedy", 1))
    other = run("relift", SEEN, *RELIFT, folder="other")
    asked.next(("greedy", 2))  # the first is made up for, the last broken off
    run("relift", SEEN, *RELIFT, folder="other", resume=True)
    shutil.rmtree(other / "checkpoints" / "step-000004")  # as if killed before it was written
    asked.next()
    run("relift", SEEN, *RELIFT, folder="other", resume=True)
    assert_same_run(whole, other)


def test_an_evaluation_that_a_state_knows_is_not_made_again(run, asked):
    often = ("checkpoint.every=2", "checkpoint.keep=9")
    folder = run("relift", SEEN, *RELIFT, *often)
    shutil.rmtree(folder / "final")
    asked.next()
    run("relift", SEEN, *RELIFT, *often, resume=True)
    assert asked.calls.count("greedy") == 1  # the last, not that after two steps


def test_no_room_for_the_state_of_an_interrupted_run_is_one_line(run, asked, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    asked.next(("greedy", 1))
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        run("relift", SEEN, *RELIFT)


def test_the_logs_of_a_resumed_run_are_cut_by_one_rank_alone(tmp_path):
    """Two would put one another's file aside, and what is written into it."""
    log, left = tmp_path / "metrics.jsonl", []
    log.write_text('{"step": 5}\n')
    for rank in (1, 0):
        world = SimpleNamespace(rank=rank, size=2, barrier=lambda: None)
        fake_run = SimpleNamespace(world=world, step=0)
        Session(fake_run, None, [], 3, RunFolder(tmp_path), {}).resume()
        left.append(log.read_text())
    assert left == ['{"step": 5}\n', ""]
