"""Critics by rule: what they say, and that what they cannot say is Failed."""

import json
from pathlib import Path

import pytest

from didact.core.protocols import Failed
from didact.core.stages import Critique
from didact.core.types import Feedback
from didact.feedback.critics import (
    Indicative,
    IndicativeWithAnswer,
    ReferenceSolution,
    each_critic,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "feedback" / "critique_grpo_critique_kind.json"
KINDS = {"simple": Indicative(), "simple_gt": IndicativeWithAnswer()}
CASES = [
    c for c in json.loads(GOLDEN.read_text())["cases"] if c["inputs"]["critique_type"] in KINDS
]


@pytest.mark.parametrize("case", CASES)
def test_rule_critics_say_what_those_of_critique_grpo_say(tools, case):
    given, wanted = case["inputs"], case["outputs"]
    member = tools.said("x", tools.group(answer=given["gt"]).prompt)
    (said,) = KINDS[given["critique_type"]](
        [member.with_signals(success=given["score"])], tools.make_run()
    )
    assert isinstance(said, Feedback)
    assert ("incorrect" in said.text) == wanted["says_incorrect"]
    assert (" correct" in said.text) == wanted["says_correct"]
    assert (given["gt"] in said.text) == wanted["contains_gt"]
    assert said.text.count(".") == wanted["n_sentences"]


def test_the_answer_is_told_for_wrong_answers_too(tools):
    member = tools.said("x", tools.group(answer=["7", "seven"]).prompt).with_signals(success=0.0)
    (said,) = IndicativeWithAnswer()([member], tools.make_run())
    assert said == Feedback(
        "The answer is incorrect: it should be 7 or seven.", "indicative_with_answer"
    )


def test_a_solution_is_shown_to_those_who_failed(tools):
    prompt = tools.group(demonstrations=("first {x}", "second")).prompt
    rows = [tools.said("x", prompt).with_signals(success=s) for s in (0.0, 1.0)]
    wrong, right = ReferenceSolution()(rows, tools.make_run())
    assert wrong.text.endswith("\nfirst {x}") and "first" not in right.text


def test_what_cannot_be_said_is_failed_with_its_reason(tools):
    run, unscored = tools.make_run(), tools.said("x")
    (failed,) = Indicative()([unscored], run)
    assert isinstance(failed, Failed) and "not scored" in failed.reason
    (failed,) = IndicativeWithAnswer()([unscored.with_signals(success=0.0)], run)
    assert isinstance(failed, Failed) and "'p' has no answer" in failed.reason
    (failed,) = ReferenceSolution()([unscored.with_signals(success=0.0)], run)
    assert isinstance(failed, Failed) and "'p' has no demonstration" in failed.reason


def test_a_plain_function_becomes_a_critic_and_its_errors_are_counted(tools):
    @each_critic
    def shout(trajectory, *, mark: str = "!"):
        if trajectory.text == "b":
            raise ValueError("cannot")
        return Feedback(trajectory.text + mark, "shout")

    run, group = tools.make_run(), tools.group()
    group = group.add(tools.said(text, group.prompt) for text in "abc")
    assert [f.text for f in shout(group.members[::2], run, mark="?")] == ["a?", "c?"]
    (done,) = Critique(shout)([group], run)
    assert [[f.text for f in m.feedback] for m in done.members] == [["a!"], [], ["c!"]]
    assert run.metrics["critique/failed"] == 1


def test_they_declare_that_they_read_success():
    for critic in (Indicative(), IndicativeWithAnswer(), ReferenceSolution()):
        assert Critique(critic).needs == {"success"}
