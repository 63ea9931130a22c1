"""The pool kills what takes too long, replaces it, and leaves no process behind."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from didact.core.errors import RewardError
from didact.rewards.pool import Died, Killed, WorkerPool

WORKER = """
import json, os, sys, time
say = lambda **message: print(json.dumps(message), flush=True)
say(ready=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["do"] == "hang":
        time.sleep(600)
    if job["do"] == "hang later":
        say(stage="later")
        while True: pass
    if job["do"] == "die":
        os._exit(3)
    say(echo=len(job["do"]) if len(job["do"]) > 99 else job["do"], pid=os.getpid())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module that workers can import."""

    def make(source, name="toy_worker"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return name

    return make


@pytest.fixture
def pool(module):
    made = WorkerPool(module(WORKER), workers=2, seconds=0.5)
    yield made
    made.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def eventually(fact, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not fact():
        time.sleep(0.02)
    return fact()


def jobs(*names):
    return [{"do": name} for name in names]


def pids(pool):
    return {one["pid"] for one in pool.run(jobs(*"abcdefgh"))}


def test_outcomes_come_in_order_from_all_workers(pool):
    said = pool.run(jobs(*"abcdefgh"))
    assert [one["echo"] for one in said] == list("abcdefgh")
    assert pool.run([]) == []


def test_workers_are_kept_between_calls(pool):
    assert pids(pool) & pids(pool)


def test_a_job_beyond_the_limit_is_killed_and_the_others_are_answered(pool):
    began = time.monotonic()
    said = pool.run(jobs("hang", "a", "hang later", "b", "c"))
    assert said[0] == Killed("") and said[2] == Killed("later")
    assert [said[at]["echo"] for at in (1, 3, 4)] == ["a", "b", "c"]
    assert time.monotonic() - began < 5.0
    assert pool.run(jobs("after"))[0]["echo"] == "after"


def test_a_worker_that_dies_costs_its_own_job_only(pool):
    said = pool.run(jobs("die", "a", "die", "b"))
    assert said[0] == said[2] == Died(3)
    assert [said[1]["echo"], said[3]["echo"]] == ["a", "b"]


def test_jobs_larger_than_a_pipe_arrive(pool):
    assert pool.run(jobs("x" * 3_000_000))[0]["echo"] == 3_000_000


def test_close_and_garbage_collection_end_the_workers(pool, module):
    running = pids(pool)
    pool.close()
    assert not any(map(alive, running))
    other = WorkerPool(module(WORKER), 1, 1.0)
    running = pids(other)
    del other
    assert eventually(lambda: not any(map(alive, running)))


def test_an_interrupt_leaves_no_worker_with_an_old_job(pool, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    pids(pool)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("didact.rewards.pool._Round._listen", interrupted)
        pool.run(jobs("stale"))
    assert pool.run(jobs("fresh"))[0]["echo"] == "fresh"


def test_ctrl_c_in_a_terminal_reaches_the_parent_only(pool):
    assert all(os.getsid(pid) != os.getsid(0) for pid in pids(pool))


def test_two_threads_may_share_a_pool(pool):
    said = {}
    threads = [
        threading.Thread(target=lambda n=name: said.update({n: pool.run(jobs(*[n] * 20))}))
        for name in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: {one["echo"] for one in got} for name, got in said.items()} == {
        "a": {"a"},
        "b": {"b"},
    }


def test_a_pool_that_cannot_start_says_so(module):
    pool = WorkerPool(module("raise SystemExit(7)", "no_worker"), 1, 1.0)
    with pytest.raises(RewardError, match="status 7 before it was ready"):
        pool.run(jobs("a"))
    source = 'print(\'{"failed": "ImportError: no sympy"}\', flush=True)'
    pool = WorkerPool(module(source, "sad_worker"), 1, 1.0)
    with pytest.raises(RewardError, match="no sympy"):
        pool.run(jobs("a"))


@pytest.mark.parametrize(("workers", "seconds"), [(0, 1.0), (1, 0.0), (1, float("inf"))])
def test_senseless_settings_are_refused(workers, seconds):
    with pytest.raises(RewardError):
        WorkerPool("m", workers, seconds)


def test_a_pickled_pool_starts_workers_of_its_own(pool):
    mine = pids(pool)
    again = pickle.loads(pickle.dumps(pool))
    assert not pids(again) & mine
    again.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_do_not_outlive_their_parent(module, how):
    script = f"""
        import signal, sys, time
        from didact.rewards.pool import WorkerPool
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
        pool = WorkerPool({module(WORKER)!r}, 2, 60.0)
        print(*{{one["pid"] for one in pool.run([{{"do": "a"}}] * 8)}}, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers and all(map(alive, workers))
    parent.send_signal(how)
    parent.wait(20)
    parent.stdout.close()
    assert eventually(lambda: not any(map(alive, workers)))


def test_a_fork_does_not_touch_its_parents_workers(pool):
    running = pids(pool)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            own = pids(pool)
            pool.close()
            os._exit(0 if not own & running else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(map(alive, running))
    assert pool.run(jobs("mine"))[0]["echo"] == "mine"
