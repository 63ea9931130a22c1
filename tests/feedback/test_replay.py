"""Replay by prompt: which, how many, and what they carry."""

import json
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.stages import Store
from didact.core.where import Where
from didact.feedback.buffers import ByPrompt, Ring
from didact.feedback.replay import ReplaySource

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum"


def remembered(tools, rewards, version=0):
    """A run whose buffer `old` holds one response "0", "1", … per reward, of prompt "p"."""
    memory = ByPrompt(per_prompt=100)
    memory.add(
        tools.said(str(at), version=version).with_signals(reward=float(reward))
        for at, reward in enumerate(rewards)
    )
    return tools.make_run(buffers={"old": memory}, version=version)


def picked(tools, run, **settings):
    (row,) = ReplaySource("old", **settings).extend([tools.group()], run)
    return [int(m.text) for m in row]


def test_only_the_same_prompt_is_replayed_under_its_origin_with_version_and_columns(tools):
    run = remembered(tools, [])
    old = tools.said("x", version=4).with_columns(behavior_logprobs=torch.tensor([-1.0, -2.0]))
    old = old.with_signals(reward=0.5, success=1.0, advantages=3.0, success_rate=0.25)
    run.buffers["old"].add([old.with_signals(**{"reward/format": 1.0, "entropy": 2.0})])
    rows = ReplaySource("old").extend([tools.group("other"), tools.group()], run)
    assert rows[0] == [] and run.metrics["replay/offered"] == 1
    (again,) = rows[1]
    assert (again.origin, again.version, again.text) == ("replay", 4, "x")
    assert again.columns["behavior_logprobs"].tolist() == [-1.0, -2.0]
    assert again.signals == {"reward": 0.5, "success": 1.0, "reward/format": 1.0}
    (_, (again,)) = ReplaySource("old", keep=["entropy"]).extend(
        [tools.group("other"), tools.group()], run
    )
    assert again.signals["entropy"] == 2.0


@pytest.mark.parametrize(
    "strategy, pick",
    [("highest_k", "highest"), ("recent_k", "newest"), ("max_variance_k", "max_variance")],
)
def test_picks_are_those_of_repo(tools, strategy, pick):
    case = json.loads((GOLDEN / "repo_strategies.json").read_text())["cases"][0]
    rewards, least = case["buffer_rewards_oldest_first"], case["min_cache_to_replay"]
    (wanted,) = [r for r in case["results"] if r["strategy"] == strategy and "buffer_len" not in r]
    chosen = picked(tools, remembered(tools, rewards), n=wanted["k"], pick=pick, at_least=least)
    assert sorted(chosen) == wanted["selected"]
    (few,) = [r for r in case["results"] if "buffer_len" in r]
    assert few["selected"] is None
    short = remembered(tools, rewards[: few["buffer_len"]])
    assert picked(tools, short, n=3, pick=pick, at_least=few["min_cache"]) == []


def test_newest_come_newest_first_and_oldest_oldest_first(tools):
    run = remembered(tools, [0, 0, 0])
    assert picked(tools, run, n=2) == [2, 1]
    assert picked(tools, run, n=2, pick="oldest") == [0, 1]
    assert picked(tools, run, n=9) == [2, 1, 0]
    assert picked(tools, run, n=0) == []


def test_a_random_pick_depends_on_the_step_alone(tools):
    run = remembered(tools, range(50))
    first = picked(tools, run, n=5, pick="random")
    assert picked(tools, run, n=5, pick="random") == first and len(set(first)) == 5
    run.step = 1
    assert picked(tools, run, n=5, pick="random") != first


def test_what_is_in_the_group_already_is_not_replayed_into_it(tools):
    run = remembered(tools, [1])
    group = tools.group().add([tools.said("new").with_signals(reward=1.0)])
    Store("old", Where({"reward": 1}))([group], run)
    assert len(run.buffers["old"]) == 2
    (row,) = ReplaySource("old", n=5).extend([group], run)
    assert [m.text for m in row] == ["0"]


def test_what_the_present_weights_said_can_be_left_out(tools):
    run = remembered(tools, [0, 0], version=3)
    run.buffers["old"].add([tools.said("7", version=2)])
    assert picked(tools, run, n=5, min_age=1) == [7]
    assert picked(tools, run, n=5) == [7, 1, 0]


def test_a_pick_by_reward_wants_a_reward_and_a_buffer_must_exist(tools):
    run = tools.make_run(buffers={"old": Ring(4)})
    run.buffers["old"].add([tools.said("x"), tools.said("y")])
    with pytest.raises(RecipeError, match="has no 'reward'"):
        ReplaySource("old", pick="highest").extend([tools.group()], run)
    with pytest.raises(RecipeError, match="Did you mean 'old'"):
        ReplaySource("odl").extend([tools.group()], run)


def test_successes_come_back_into_failed_groups_as_in_arpo(tools):
    """The released trace: which groups get a stored success, and the buffers afterwards. The
    release draws one at random with Python's global generator, so membership is checked."""
    memory = ByPrompt(per_prompt=8)
    run = tools.make_run(buffers={"old": memory})
    known: dict[str, list[str]] = {"A": [], "B": []}
    cases = json.loads((GOLDEN / "arpo_replay.json").read_text())["cases"]
    for case in cases:
        if case["step"] == "s4":  # the trace leaves out step 3; its buffer is what s4 began with
            memory.add(
                tools.said(f"s3:{task}:{at}", tools.group(task).prompt)
                for task in "AB"
                for at in range(4)
            )
        fresh = [
            tools.group(given["task"]).add(
                tools.said(
                    f"{case['step']}:{given['task']}:{at}", tools.group(given["task"]).prompt
                ).with_signals(reward=float(reward))
                for at, reward in enumerate(given["rewards"])
            )
            for given in case["inputs"]
        ]
        failed = [g for g in fresh if max(m.signals["reward"] for m in g.members) < 0.2]
        replayed = ReplaySource("old", pick="random").extend(failed, run)
        tags = set(case["output_tags"])
        injected = {tag for tag in tags if not tag.startswith(case["step"])}
        assert len(injected) == sum(map(len, replayed))
        for row in replayed:
            assert all(m.text in known[m.prompt.id] or m.text.startswith("s3") for m in row)
        # more than 0.1, and 0.1 in float32 is more: the release keeps s4:A:3
        Store("old", Where({"reward": {"at_least": 0.1}}))(fresh, run)
        for task, wanted in case["buffer"].items():
            held = [m.text for m in memory.matching(tools.group(task).prompt)]
            known[task] = held
            assert held == wanted
