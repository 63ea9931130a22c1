"""Stages that go round, mark, and ask a source as often as a group says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.pipeline import Pipeline
from didact.core.rounds import Repeat
from didact.core.score import Score, Weighted
from didact.core.stages import Keep, Mark, Rollout
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.core.where import Where
from didact.core.world import Alone


@dataclass
class Run:
    """What these stages read of a run."""

    step: int = 0
    world: Alone = field(default_factory=Alone)
    metrics: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)
    scored: dict = field(default_factory=dict)


@dataclass
class Script:
    """FAKE source: two answers each time, whose texts are the next numbers of a prompt's script."""

    scripts: dict
    asked: Counter = field(default_factory=Counter)

    def extend(self, groups, run):
        out = []
        for group in groups:
            name = group.prompt.id
            at = 2 * self.asked[name]
            self.asked[name] += 1
            out.append([said(group.prompt, text) for text in self.scripts[name][at : at + 2]])
        return out


def prompt(name):
    return Prompt(name, torch.tensor([1]), Problem(name, name))


def said(asked, text, origin="policy"):
    tokens = torch.arange(3)
    return Trajectory(asked, tokens, torch.ones(3, dtype=torch.bool), origin, text=text)


SCORE = Score({"right": Weighted(lambda rows: [float(row.text) for row in rows])})
BOTH = Where.model_validate({"positives": {"at_least": 1}, "negatives": {"at_least": 1}})


def test_groups_go_round_until_they_have_both_sides_or_rounds_are_out():
    source = Script({"mixed": "10", "late": "000001", "never": "00000000"})
    stage = Repeat([Rollout(source), SCORE], until=BOTH, rounds=4)
    run = Run()
    groups = stage([Group(prompt(name)) for name in source.scripts], run)
    assert source.asked == {"mixed": 1, "late": 3, "never": 4}
    assert [len(group.members) for group in groups] == [2, 6, 8]
    assert [group.signals["positives"] for group in groups] == [1, 1, 0]
    assert [group.signals["negatives"] for group in groups] == [1, 5, 8]
    assert (run.metrics["repeat/rounds"], run.metrics["repeat/unmet"]) == (4, 1)
    assert "repeat/rollout" in run.seconds


def test_rounds_end_early_when_all_are_done_and_no_groups_are_no_error():
    source = Script({"mixed": "10"})
    run = Run()
    Repeat([Rollout(source), SCORE], until=BOTH)([Group(prompt("mixed"))], run)
    assert run.metrics["repeat/rounds"] == 1
    assert Repeat([Rollout(source), SCORE], until=BOTH)([], Run()) == []


def test_what_a_round_reads_and_no_stage_in_it_makes_is_needed_from_before():
    stage = Repeat([SCORE], until=Where.model_validate({"depth": {"at_least": 2}}))
    assert stage.needs == {"members", "depth"}
    with pytest.raises(RecipeError, match="'depth'"):
        Pipeline([("repeat", stage)])


def test_what_a_round_drops_is_gone_and_new_groups_are_an_error():
    some = Where.model_validate({"success_rate": {"above": 0}})
    source = Script({"a": "00", "b": "10", "c": "11", "d": "00"})
    inner = [Rollout(source), SCORE, Keep(some)]
    groups = Repeat(inner, until=BOTH, rounds=1)([Group(prompt(name)) for name in "abcd"], Run())
    assert [group.prompt.id for group in groups] == ["b", "c"]

    class Double:
        needs = adds = frozenset()

        def __call__(self, groups, run):
            return [*groups, *groups]

    with pytest.raises(RecipeError, match="'a' that they were not given"):
        Repeat([Double()], until=BOTH)([Group(prompt("a"))], Run())


def test_a_source_is_asked_as_often_as_the_group_says():
    source = Script({"a": "000000", "b": "0", "c": "00"})
    counts = {"a": 3.0, "b": 0.0, "c": 1.0}
    groups = [Group(prompt(name), (), {"allotted": n}) for name, n in counts.items()]
    stage = Rollout(source, times="allotted")
    assert stage.needs == {"allotted"}
    assert [len(g.members) for g in stage(groups, Run())] == [6, 0, 2]
    odd = [replace(groups[0], signals={"allotted": 1.5})]
    with pytest.raises(RecipeError, match=r"1\.5, not a whole number"):
        stage(odd, Run())
    with pytest.raises(RecipeError, match="None, not a whole number"):
        stage([Group(prompt("a"))], Run())


def test_marks_stand_on_the_members_that_match_only():
    members = (said(prompt("a"), "x"), said(prompt("a"), "y", origin="prefix"))
    stage = Mark({"prefix_id": 0.0}, {"prefix": 0.0}, Where({"origin": "policy"}))
    assert stage.adds == {"prefix_id", "prefix"}
    one, other = stage([Group(prompt("a"), members)], Run())[0].members
    assert one.signals["prefix_id"] == 0.0 and one.columns["prefix"].tolist() == [0.0] * 3
    assert other is members[1]


def test_an_offset_is_added_once_for_each_reward_and_success_is_judged_before_it():
    given = {
        "right": Weighted(lambda rows: [1.0 if row.text == "1" else 0.0 for row in rows], 2.0, -1),
        "short": Weighted(lambda rows: [0.5 for _ in rows], 1.0, 0.25),
    }
    members = tuple(said(prompt("a"), text) for text in "10")
    (group,) = Score(given)([Group(prompt("a"), members)], Run())
    assert [m.signals["reward"] for m in group.members] == [1.75, -0.25]
    assert [m.signals["reward/right"] for m in group.members] == [1.0, 0.0]
    assert [m.signals["success"] for m in group.members] == [1.0, 0.0]
