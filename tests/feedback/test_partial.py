"""Partial rollouts: what one step leaves unfinished, later steps finish, token for token."""

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.score import Score, Weighted
from didact.feedback.buffers import Queue, Ring
from didact.feedback.partial import Continue
from didact.feedback.policy import PolicySource

WORD = "abcdefghij"


def speak(context, seed):
    """Goes on in the word; the prompt "s?" asks for its first two letters alone."""
    question, _, said = context.partition("?")
    word = WORD[:2] if question == "s" else WORD
    return word[len(said) :]


def stepped(tools, stage, run, names, steps):
    """What leaves the stage in each step; only the first step has new groups."""
    source = PolicySource(n=1, max_tokens=4)
    left = []
    for step in range(steps):
        run.step = step
        fresh = [tools.group(name, question) for name, question in names] if step == 0 else []
        made = source.extend(fresh, run)
        groups = [group.add(new) for group, new in zip(fresh, made, strict=True)]
        left.append(stage(groups, run))
        run.generators["policy"].sync(None)
    return left


def test_a_response_is_finished_in_segments_with_the_log_probabilities_it_was_drawn_with(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    left = stepped(tools, Continue("unfinished", segment=4), run, [("p", "q?")], 3)
    assert [len(groups) for groups in left] == [0, 0, 1]
    ((member,),) = [group.members for group in left[2]]
    assert member.text == WORD and not member.truncated
    assert member.tokens.tolist() == [*map(ord, WORD), 0]
    assert member.version == 0
    assert bool(member.trainable.all())
    drawn = [-0.1, -0.2, -0.3, -0.4, -0.1, -0.2, -0.3, -0.4, -0.1, -0.2, -0.3]
    assert member.columns["behavior_logprobs"].tolist() == pytest.approx(drawn)
    assert "held" not in member.signals
    assert len(run.buffers["unfinished"]) == 0


def test_only_the_newest_segment_may_carry_loss(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    stage = Continue("unfinished", segment=4, learn="newest")
    (group,) = stepped(tools, stage, run, [("p", "q?")], 3)[2]
    assert group.members[0].trainable.tolist() == [False] * 8 + [True] * 3


def test_a_finished_group_goes_on_at_once_and_a_held_one_comes_first_later(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    stage = Continue("unfinished", segment=8)
    names = [("long", "q?"), ("short", "s?")]
    first, second = stepped(tools, stage, run, names, 2)
    assert [group.prompt.id for group in first] == ["short"]
    assert [group.prompt.id for group in second] == ["long"]
    assert run.metrics["continue/held"] == 0.0
    assert run.metrics["continue/tokens"] == 7.0


def test_a_group_waits_for_its_slowest_member(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    stage = Continue("unfinished", segment=16)
    both = tools.group("p", "q?")
    (long,) = PolicySource(n=1, max_tokens=4).extend([both], run)
    (short,) = PolicySource(n=1).extend([both], run)
    assert stage([both.add([*short, *long])], run) == []
    run.step = 1
    (group,) = stage([], run)
    assert [member.text for member in group.members] == [WORD, WORD]
    assert group.members[0].columns["behavior_logprobs"].tolist()[-1] == pytest.approx(-1.1)


def test_the_limit_ends_a_response_as_truncated(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    stage = Continue("unfinished", segment=4, max_tokens=6)
    first, second = stepped(tools, stage, run, [("p", "q?")], 2)
    assert first == []
    (member,) = second[0].members
    assert member.text == WORD[:6] and member.truncated


def test_what_waits_survives_a_checkpoint(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    stage = Continue("unfinished", segment=8)
    stepped(tools, stage, run, [("p", "q?"), ("p", "q?")], 1)
    resumed = tools.make_run(speak, buffers={"unfinished": Queue()}, step=1)
    resumed.buffers["unfinished"].load_state_dict(run.buffers["unfinished"].state_dict())
    run.step = 1
    for one in (run, resumed):
        one.generators["policy"].version = 1
    left, right = stage([], run), stage([], resumed)
    assert len(left) == len(right) == 2
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a.members[0].tokens, b.members[0].tokens)


@pytest.mark.parametrize("buffer", [Queue(capacity=1), Ring()])
def test_a_buffer_that_loses_members_or_keeps_what_it_gives_is_refused(tools, buffer):
    """Groups of a part of their members, or the same ones again and again."""
    run = tools.make_run(speak, buffers={"unfinished": buffer})
    with pytest.raises(RecipeError, match="`queue` without a capacity"):
        stepped(tools, Continue("unfinished", segment=1), run, [("p", "q?"), ("r", "q?")], 2)


def test_a_buffer_that_others_use_is_refused(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    run.buffers["unfinished"].add([tools.said("stranger")])
    with pytest.raises(RecipeError, match="a buffer of its own"):
        Continue("unfinished", segment=4)([], run)


@pytest.mark.parametrize("origin", ["demonstration", "refinement", "prefix"])
def test_what_the_policy_did_not_answer_is_not_continued_by_it(tools, origin):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    stage = Continue("unfinished", segment=16)
    both = tools.group("p", "q?")
    (long,) = PolicySource(n=1, max_tokens=4).extend([both], run)
    other = tools.said("cut", prompt=both.prompt, origin=origin, truncated=True)
    assert stage([both.add([*long, other])], run) == []
    (group,) = stage([], run)
    assert [member.text for member in group.members] == [WORD, "cut"]
    assert group.members[1].truncated


def test_a_reward_for_the_beginning_is_not_kept_for_the_whole(tools):
    run = tools.make_run(speak, buffers={"unfinished": Queue()})
    length = Weighted(lambda members: [float(len(member.text)) for member in members])
    score, stage = Score({"length": length}), Continue("unfinished", segment=16)
    (made,) = PolicySource(n=1, max_tokens=4).extend([tools.group("p", "q?")], run)
    assert stage(score([tools.group("p", "q?").add(made)], run), run) == []
    (group,) = score(stage([], run), run)
    assert group.members[0].signals["reward"] == len(WORD)
