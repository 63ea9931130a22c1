"""Cells run in processes of their own, with GPUs of their own (fakes: no GPU is there)."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest

from didact.configs.compare import _record, at_once, run_cells, run_comparison, shared_gpus
from didact.configs.comparison import Cell, Comparison, Match
from didact.configs.console import Console
from didact.configs.document import Document
from didact.configs.pool import Ended, Pool
from didact.core.errors import DidactError, RecipeError, RunError
from didact.core.folder import RunFolder


def tell(file):
    """A fake cell: writes down which GPUs it was given."""
    return ["sh", "-c", f'echo "$CUDA_VISIBLE_DEVICES" > {file}']


def alive(process):
    """Neither gone nor a zombie that nobody has asked for yet."""
    asked = subprocess.run(["ps", "-o", "stat=", "-p", process], capture_output=True, check=False)
    return asked.stdout != b"" and not asked.stdout.startswith(b"Z")


def drain(pool):
    ends = []
    while pool.running:
        ends += pool.ended()
    return {end.name: end for end in ends}


def test_each_process_sees_gpus_of_its_own_and_frees_them(tmp_path):
    with Pool(4, gpus=("4", "5", "7")) as pool:
        for name, gpus in (("one", 1), ("two", 2)):
            pool.start(name, gpus, subprocess.check_call, tell(tmp_path / name))
        assert not pool.room(1) and pool.room(0)
        with pytest.raises(RunError, match="no room for a call with 1 GPUs"):
            pool.start("three", 1, os.getpid)
        assert {end.failure for end in drain(pool).values()} == {""}
        assert sorted(pool.free) == ["4", "5", "7"]
        pool.start("all", 3, subprocess.check_call, tell(tmp_path / "all"))
        drain(pool)
    seen = [set((tmp_path / name).read_text().strip().split(",")) for name in ("one", "two")]
    assert list(map(len, seen)) == [1, 2] and set.union(*seen) == {"4", "5", "7"}
    assert sorted((tmp_path / "all").read_text().strip().split(",")) == ["4", "5", "7"]


def test_without_gpus_the_environment_is_the_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with Pool(2) as pool:
        pool.start("cell", 0, subprocess.check_call, tell(tmp_path / "cell"))
        drain(pool)
    assert (tmp_path / "cell").read_text().strip() == "2,3"


@pytest.mark.parametrize(
    ("jobs", "cpus", "own", "threads"),
    [(2, 1, "", "1"), (1, 3, "", "3"), (1, None, "", "none"), (2, 1, "5", "5")],
)
def test_threads_are_as_many_as_asked_for(tmp_path, monkeypatch, jobs, cpus, own, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    asked = f"echo ${{OMP_NUM_THREADS:-none}} > {tmp_path / 'threads'}"
    with Pool(jobs, cpus=cpus) as pool:
        pool.start("cell", 0, subprocess.check_call, ["sh", "-c", asked])
        assert drain(pool)["cell"].failure == ""
    assert (tmp_path / "threads").read_text().strip() == threads


def test_cells_at_once_are_as_many_as_gpus_or_cores_suffice_for(monkeypatch):
    def most(here, **settings):
        methods = {"a": "grpo"}
        return at_once(Comparison.model_validate({"methods": methods, **settings}), here)

    monkeypatch.setattr("didact.configs.compare.cores", lambda: 8)
    assert [most([]), most([], cpus=1), most([], cpus=3)] == [(1, None), (8, 1), (2, 3)]
    assert most([], cpus=16) == (1, 16)
    both = ["0", "1"]
    assert [most(both), most(both, gpus=2), most(both, cpus=1)] == [(2, None), (1, None), (2, None)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert most([], gpus=0, cpus=1) == (1, None)  # all of them see the same GPUs


def test_a_process_that_is_killed_is_named_and_those_beside_it_go_on():
    with Pool(2) as pool:
        pool.start("victim", 0, signal.raise_signal, signal.SIGKILL)
        pool.start("other", 0, time.sleep, 0.3)
        assert pool.ended() == [
            Ended("victim", failure="its process was killed by SIGKILL (out of memory, or by hand)")
        ]
        pool.start("wrong", 0, int, "x")
        ends = drain(pool)
    assert ends["other"] == Ended("other", outcome="None")
    assert ends["wrong"].failure.startswith("invalid literal for int()")


def test_what_a_killed_process_leaves_behind_ends_with_it(tmp_path):
    left = f"sleep 60 & echo $! > {tmp_path}/pid; kill -9 $PPID"
    with Pool(1) as pool:
        pool.start("victim", 0, subprocess.check_call, ["sh", "-c", left])
        (end,) = pool.ended()
    assert "SIGKILL" in end.failure
    process = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 20
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(process)


def test_an_exception_in_the_block_interrupts_the_processes_and_waits():
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), Pool(1) as pool:
        pool.start("long", 0, time.sleep, 60)
        raise ZeroDivisionError  # at once: the process is not there yet
    assert time.monotonic() - began < 30


def test_a_process_does_not_outlive_its_caller(tmp_path):
    code = f"""
    import os, signal, time
    from pathlib import Path
    from didact.configs.pool import Pool

    def work():
        signal.signal(signal.SIGTERM, lambda *_: Path("{tmp_path}/left").touch() or os._exit(0))
        Path("{tmp_path}/began").touch()
        time.sleep(60)

    if __name__ == "__main__":
        pool = Pool(1)
        pool.start("cell", 0, work)
        while not Path("{tmp_path}/began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    (tmp_path / "caller.py").write_text(textwrap.dedent(code))
    subprocess.run([sys.executable, tmp_path / "caller.py"], check=False, timeout=60)
    deadline = time.monotonic() + 20
    while not (tmp_path / "left").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "left").exists()


FAKE = """
import os, signal
from pathlib import Path

def work(document, folder, name):
    folder.mkdir(parents=True)
    Path(folder, "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if document.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if document.name == "failing":
        raise ValueError("no such thing")
    return "done"
"""


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Cells whose work is a fake."""
    (tmp_path / "fake_cells.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    import fake_cells

    monkeypatch.setattr("didact.configs.compare._work", fake_cells.work)

    def make(*names, gpus=1):
        return [
            Cell(name, 0, Document(name), RunFolder(tmp_path / "cells" / name / "0"), None, gpus)
            for name in names
        ]

    return make


def test_a_cell_that_is_killed_or_fails_takes_no_other_down(cells):
    todo = cells("killed", "failing", "fine", "also fine")
    with Pool(2) as pool:
        failed = run_cells(todo, pool, Console(quiet=True))
    assert failed == {
        "killed / seed 0": "its process was killed by SIGKILL (out of memory, or by hand)",
        "failing / seed 0": "no such thing",
    }
    assert "SIGKILL" in (todo[0].folder.path / "error.txt").read_text()
    assert all((cell.folder.path / "gpus").exists() for cell in todo)


def test_a_cell_whose_budget_cannot_be_known_says_why(cells):
    (cell,) = cells("late")
    todo = [replace(cell, match=Match(axis="steps", of="gone"))]
    why = "'gone' with seed 0 has no result to match"
    with Pool(1) as pool:
        assert run_cells(todo, pool, Console(quiet=True)) == {"late / seed 0": why}
    assert (cell.folder.path / "error.txt").read_text() == why


def test_three_gpus_are_shared_out_to_the_cells(cells, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    todo = [*cells("one", "two", "three", "four"), *cells("pair", gpus=2)]
    assert shared_gpus(todo) == ["GPU-a", "GPU-b", "GPU-c"]
    with Pool(3, shared_gpus(todo)) as pool:
        assert run_cells(todo, pool, Console(quiet=True)) == {}
    assert pool.most == 3
    given = [(cell.folder.path / "gpus").read_text().split(",") for cell in todo]
    assert list(map(len, given)) == [1, 1, 1, 1, 2]
    assert given[0] != given[1] != given[2] != given[0]
    with pytest.raises(RecipeError, match="many / seed 0: gpus: 4 asked for, but there are 3"):
        shared_gpus(cells("many", gpus=4))
    assert shared_gpus(cells("any", gpus=0)) == []


def test_a_comparison_remembers_the_most_cells_that_ran_at_once(tmp_path):
    comparison = Comparison.model_validate({"methods": {"a": "grpo"}})
    for most in (1, 3, 2):
        _record(comparison, "mine", tmp_path, [], most)
    assert json.loads((tmp_path / "comparison.json").read_text())["at_once"] == 3


def test_a_comparison_runs_with_the_cores_that_its_file_says(tmp_path, monkeypatch):
    seen = []

    def run_cells(todo, pool, console):
        seen.append((pool.jobs, pool.free, int(pool.limits["OMP_NUM_THREADS"])))
        pool.most = 3
        return {}

    monkeypatch.setattr("didact.configs.compare.run_cells", run_cells)
    monkeypatch.setattr("didact.configs.compare.cores", lambda: 3)
    with pytest.raises(DidactError, match="no run has started"):
        run_comparison("quickstart", tmp_path)
    assert seen == [(3, [], 1)]
    assert json.loads((tmp_path / "comparison.json").read_text())["at_once"] == 3
