"""Every built-in part keeps the promises that a third party's part is held to."""

from http.server import ThreadingHTTPServer
from threading import Thread
from zlib import crc32

import pytest
from fake_http import Answers

from didact.core.types import Problem
from didact.feedback.tasks.countdown import Countdown
from didact.feedback.tasks.letters import Letters
from didact.plugins.manager import load
from didact.plugins.testing.part import Example, parts_of
from didact.plugins.testing.promises import GENERAL, kept, promises_of

SUM = Problem("sum", "2 + 3 = ?", "5", ("5",))
CHOICE = Problem("choice", "Which?", "B", ("B",))
LETTERS, COUNTDOWN = [Letters()[at] for at in range(3)], [Countdown()[at] for at in range(3)]
TASKS_OF_FILES = {"jsonl", "csv", "parquet", "hub"}
"""Held to the promise in tests/tasks, where there are files."""
MODELS = {"read", "step_values", "continue"}
"""Stages that need a model, what another stage makes, or a buffer of their own."""


class Grader(Answers):
    """An OpenAI-compatible server whose judgement depends on the question alone."""

    def do_GET(self):
        self.send({"data": [{"id": "grader"}]})

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        said = f"Score: {crc32(asked) % 11}"
        self.send({"choices": [{"message": {"role": "assistant", "content": said}}]})


def served():
    """The address of a grader that lives as long as the tests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Grader)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def gym():
    """One problem of reasoning-gym, or none where it is not installed."""
    try:
        import reasoning_gym  # noqa: F401
    except ImportError:
        return ()
    from didact.feedback.tasks.gym import Gym

    return [Gym(dataset="chain_sum", size=3)[at] for at in range(3)]


EXAMPLES = {
    "advantage:advantage_alignment": Example(among={"seat": [0, 1]}),
    "advantage:opmd": Example({"temperature": 0.5}),
    "advantage:rank_penalised": Example({"penalty": 0.5}),
    "advantage:reward_minus_kl": Example({"beta": 0.1}),
    "advantage:shape_overlong": Example({"max_tokens": 5, "cache": 2}),
    "advantage:clip_delta": Example(among={"step_end": [0, 1]}),
    "advantage:decoded_rewards": Example(among={"step_end": [0, 1]}),
    "advantage:process_advantage": Example(
        rows=["prover_start"], among={"step_end": [0, 1]}, between={"prover_value": (0, 1)}
    ),
    "advantage:sampled_steps": Example(among={"step_end": [0, 1]}),
    "loss:randomised_decomposition": Example(among={"step_end": [0, 1], "step_sampled": [0, 1]}),
    "loss:return_decomposition": Example(among={"step_end": [0, 1]}),
    "advantage:stratified": Example(among={"strata": [0, 1, 2]}),
    "advantage:prefix_group_norm": Example(among={"prefix": [0, 1], "prefix_id": [0, 1, 2]}),
    "advantage:counted_norm": Example(among={"positives": [0, 1, 5], "negatives": [0, 2, 3]}),
    "weight:by_success": Example(
        {"coefficients": [1.0, 0.5, 0.0]}, among={"success_rate": [0.0, 0.5, 1.0]}
    ),
    "weight:probability_cap": Example({"at_most": 0.3}),
    "weight:shortfall": Example({"target": 0.5}),
    "reward:choice_match": Example(problems=[CHOICE]),
    "reward:cosine_length": Example({"correct": "exact_match", "limit": 50}, problems=[SUM]),
    "reward:judge": Example({"url": served()}, seconds=60),
    "reward:kimi_length": Example({"correct": "exact_match"}, problems=[SUM], grouped=True),
    "reward:countdown_answer": Example(problems=COUNTDOWN),
    "reward:countdown_tagged": Example(problems=COUNTDOWN),
    "reward:full_match": Example({"pattern": "yes|no"}),
    "reward:gym_answer": Example(problems=gym()),
    "reward:math_verify": Example(problems=[SUM], seconds=60),
    "reward:overlong": Example({"limit": 50, "cache": 10}),
    "reward:procedural_answer": Example(problems=[*LETTERS, *COUNTDOWN]),
    "environment:second_try": Example({"reward": "exact_match"}, problems=[SUM]),
    "source:branch": Example({"reward": {"use": "full_match", "pattern": ".*"}, "n": 2}),
    "source:own_prefix": Example({"n": 2, "separator": "a"}),
    "source:replay": Example({"buffer": "kept"}),
    "buffer:prioritized": Example({"by": "reward"}),
    "stage:allot_by_gradient": Example({"norm": "reward"}),
    "stage:advantage": Example({"estimator": "group_norm"}),
    "stage:balance": Example({"keep": 2}),
    "stage:continue": Example({"buffer": "kept", "segment": 4}),
    "stage:critique": Example({"critic": "indicative"}),
    "stage:fill": Example({"groups": 6, "stages": [{"rollout": "policy"}]}),
    "stage:repeat": Example({"stages": [{"rollout": "policy"}], "until": {}, "rounds": 2}),
    "stage:rollout": Example({"source": "policy"}),
    "stage:step_values": Example({"reward": {"use": "full_match", "pattern": ".*"}}),
    "stage:store": Example({"buffer": "kept"}),
    "stage:swap": Example({"best": "policy"}),
    "task:gym": Example({"dataset": "chain_sum", "size": 10}),
    "task:mixture": Example({"tasks": {"a": {"use": "letters"}, "b": {"use": "countdown"}}}),
}
NEEDS_GYM = {"reward:gym_answer", "task:gym"}


@pytest.mark.parametrize("part", parts_of(load(installed=False), "didact", EXAMPLES), ids=str)
def test_a_built_in_part_keeps_its_promises(part):
    if str(part) in NEEDS_GYM and not gym():
        pytest.skip("reasoning-gym is not installed")
    exempt = {"task": TASKS_OF_FILES, "stage": MODELS}.get(part.entry.kind, ())
    for promise in GENERAL if part.entry.name in exempt else promises_of(part):
        kept(part, promise)
