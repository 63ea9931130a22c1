"""Beginnings of own answers and of experts': where continuations start."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError
from didact.feedback.prefixes import BranchSource, OwnPrefixSource, draw_beginnings, step_ends

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum" / "rest_rl_prefix.json"


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"])
def test_beginnings_are_drawn_as_rest_rl_draws_them(case):
    drawn = draw_beginnings(case["n"], 0.5, case["alpha"], random.Random(0))
    assert drawn == case["sample_k3_seed0"]


def test_a_step_ends_after_the_token_with_the_separator(tools):
    run = tools.make_run()
    tokens = tools.Letters().response("ab;c;d")
    assert step_ends(tokens, ";", run) == [3, 5, 7]
    assert step_ends(tools.Letters().response("a;", end=False), ";", run) == [2]
    assert step_ends(tokens, "x", run) == [7]


def scored(tools, rewards, texts, spread=0.5):
    group = tools.group("a", "q")
    members = tuple(
        tools.said(text, group.prompt, signals={"reward": r})
        for r, text in zip(rewards, texts, strict=True)
    )
    return replace(group, members=members, signals={"reward_std": spread})


def test_beginnings_of_the_best_answer_are_continued_without_loss_on_them(tools):
    run = tools.make_run(lambda context, seed: "Z", version=4)
    source = OwnPrefixSource(n=2, separator=";")
    group = scored(tools, [0.0, 1.0], ["x;x;x", "a;b;c;d"])
    (members,) = source.extend([group], run)
    assert len(members) == 2 * 2  # three beginnings, of which ceil(1.5) are drawn
    assert {m.text for m in members} <= {"a;Z", "a;b;Z", "a;b;c;Z"}
    assert [m.signals["prefix_id"] for m in members] == [1, 1, 2, 2]
    first = members[0]
    given = len(first.tokens) - 2
    assert "prefix" not in first.columns  # these are no expert's tokens
    assert first.columns["given"].tolist() == [1.0] * given + [0.0, 0.0]
    assert first.trainable.tolist() == [False] * given + [True, True]
    assert (first.origin, first.version) == ("prefix", 4)
    assert run.metrics["prefix/groups"] == 1


@pytest.mark.parametrize(
    ("rewards", "spread"), [([0.0, 0.8], 0.5), ([1.0, 1.0], 0.0)], ids=["no good one", "all equal"]
)
def test_groups_without_a_good_or_a_bad_answer_have_no_beginnings(tools, rewards, spread):
    group = scored(tools, rewards, ["a;b", "a;b"], spread)
    run = tools.make_run()
    assert OwnPrefixSource(separator=";").extend([group, tools.group("b")], run) == [[], []]
    assert not run.generators["policy"].calls or not run.generators["policy"].calls[0][0]


def knows_after(length):
    """A policy that succeeds if so many letters of the expert's answer are given."""
    return lambda context, seed: "!" if len(context) - 1 >= length else "?"


def right(rows):
    return [float("!" in row.text) for row in rows]


@pytest.mark.parametrize("search", ["linear", "binary"])
@pytest.mark.parametrize("needed", [1, 2, 3, 5, 7])
def test_the_shortest_beginning_after_which_one_succeeds_is_found(tools, search, needed):
    run = tools.make_run(knows_after(needed))
    source = BranchSource(right, n=3, parts=8, search=search)
    (members,) = source.extend([tools.group("a", "q", demonstrations=("abcdefg",))], run)
    assert [m.text for m in members] == ["abcdefg"[:needed] + "!"] * 3
    tries = len(run.generators["policy"].calls)
    assert tries == needed if search == "linear" else tries <= 3
    assert run.metrics["branch/found"] == 1
    assert run.metrics["branch/share"] == needed / 8


def test_a_binary_search_tries_few_beginnings_for_all_prompts_at_once(tools):
    run = tools.make_run(knows_after(100))
    groups = [tools.group(name, "q", demonstrations=("abcdefg",)) for name in "ab"]
    assert BranchSource(right, n=2, parts=8).extend([*groups, tools.group("c")], run) == [
        (),
        (),
        (),
    ]
    calls = run.generators["policy"].calls
    assert [len(requests) for requests, _ in calls] == [4, 4, 4]
    assert run.metrics["branch/searched"] == 2 and run.metrics["branch/found"] == 0


def test_a_beginning_leaves_room_for_the_policy_and_never_is_the_whole(tools):
    run = tools.make_run(lambda context, seed: "!", max_tokens=3)
    source = BranchSource(right, n=1, parts=2, search="linear")
    (members,) = source.extend([tools.group("a", "q", demonstrations=("abcdefgh",))], run)
    assert members[0].text == "ab!" and members[0].truncated
    with pytest.raises(RecipeError, match="'parts' is at least 2"):
        BranchSource(right, parts=1)


def test_prefix_numbers_tell_the_responses_of_a_prompt_apart(tools):
    from didact.feedback.demonstrations import PrefixSource

    groups = [tools.group(name, demonstrations=("abcdef",)) for name in "ab"]
    rows = PrefixSource(n=3).extend(groups, tools.make_run())
    assert [[m.signals["prefix_id"] for m in row] for row in rows] == [[1, 2, 3]] * 2
    assert torch.equal(rows[0][0].trainable, torch.ones_like(rows[0][0].trainable))
