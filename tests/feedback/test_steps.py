"""Steps of an answer, and what each is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from didact.core.errors import RewardError
from didact.core.protocols import Failed
from didact.core.where import Where
from didact.feedback.steps import Steps, StepValues


def right(rows):
    return [float(row.text.endswith("!")) for row in rows]


def stepped(tools, *texts, run):
    group = tools.group("a", "q")
    members = tuple(tools.said(text, group.prompt) for text in texts)
    return Steps(";")([replace(group, members=members)], run)


def test_steps_end_at_separators_and_at_the_end(tools):
    (group,) = stepped(tools, "a;b", "c", run=tools.make_run())
    assert [m.columns["step_end"].tolist() for m in group.members] == [[0, 1, 0, 1], [0, 1]]
    only = Steps(";", where=Where({"origin": "prefix"}))
    assert "step_end" not in only([tools.group("b")], None)[0].signals
    assert "step_end" in Steps().adds


def test_the_value_of_a_step_is_how_often_one_gets_there_from_its_end(tools):
    """From "a;" all succeed, from "a;b;" none, from the start half of them do."""

    def speak(context, seed):
        if context.endswith("a;"):
            return "!"
        return "!" if context == "q" and seed % 2 else "?"

    run = tools.make_run(speak)
    groups = stepped(tools, "a;b;c!", run=run)
    (group,) = StepValues(right, n=40)(groups, run)
    (member,) = group.members
    assert member.columns["step_value"].tolist() == [0, 1.0, 0, 0.0, 0, 0, 1.0]
    assert 0.2 < member.signals["start_value"] < 0.8
    assert run.metrics["steps/continued"] == 3 * 40


def test_a_continuation_has_the_room_that_its_beginning_leaves_and_at_least_a_token(tools):
    run = tools.make_run(lambda context, seed: "!", max_tokens=4)
    StepValues(right, n=1)(stepped(tools, "a;bc;d", run=run), run)
    ((requests, sampling),) = run.generators["policy"].calls
    assert [r.limit(sampling) for r in requests] == [4, 2, 1]  # after nothing, "a;" and "a;bc;"


def test_only_chosen_members_are_valued_and_named_as_asked(tools):
    run = tools.make_run(lambda context, seed: "!")
    (group,) = stepped(tools, "a;b!", "c", run=run)
    marked = [m.with_signals(success=s) for m, s in zip(group.members, (1.0, 0.0), strict=True)]
    stage = StepValues(
        right, n=1, column="q", start="v", where=Where.model_validate({"success": 0})
    )
    assert stage.needs == {"success", "step_end"} and stage.adds == {"q", "v"}
    (found,) = stage([replace(group, members=tuple(marked))], run)
    assert "q" not in found.members[0].columns
    assert found.members[1].columns["q"].tolist() == [0.0, 0.0]
    assert found.members[1].signals["v"] == 1.0


def test_the_number_of_valued_steps_may_be_bounded(tools):
    run = tools.make_run(lambda context, seed: "!")
    (group,) = StepValues(right, n=1, most=1)(stepped(tools, "a;b;c;d", run=run), run)
    assert group.members[0].columns["step_value"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_ranks_and_company_change_nothing(tools):
    def values(texts, world=None):
        run = tools.make_run(world=world)
        groups = [stepped(tools, text, run=run)[0] for text in texts]
        groups = [
            replace(
                g,
                members=tuple(replace(m, prompt=replace(m.prompt, id=str(at))) for m in g.members),
            )
            for at, g in enumerate(groups)
        ]
        found = StepValues(lambda rows: [len(r.text) * 1.0 + ord(r.text[-1]) for r in rows], n=3)(
            groups, run
        )
        return [m.columns["step_value"].tolist() for g in found for m in g.members]

    both = values(["a;b", "c;d;e"])
    assert values(["a;b", "c;d;e"], tools.Stripes(3)) == both
    assert values(["a;b"]) == both[:1]


def test_continuations_that_cannot_be_scored_are_left_out_and_none_is_an_error(tools):
    run = tools.make_run(lambda context, seed: "!" if seed % 2 else "odd")

    def picky(rows):
        return [Failed("odd") if row.text.endswith("odd") else 1.0 for row in rows]

    (group,) = StepValues(picky, n=30)(stepped(tools, "a;b", run=run), run)
    assert group.members[0].columns["step_value"].tolist() == [0, 1, 0, 1]
    assert 0 < run.metrics["steps/failed"] < 60
    with pytest.raises(RewardError, match="no continuation could be scored: odd"):
        StepValues(lambda rows: [Failed("odd") for _ in rows])(stepped(tools, "a", run=run), run)
