"""A second try: unary feedback, driven through the policy source."""

import json
from pathlib import Path

import pytest

from didact.core.protocols import Failed
from didact.feedback.environments import SecondTry
from didact.feedback.policy import PolicySource

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum" / "ufo_env.json"


def exact(rows):
    return [Failed("broken") if r.text == "?" else float(r.text == r.prompt.answer) for r in rows]


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"])
def test_an_episode_has_the_turns_and_replies_of_the_released_environment(tools, case):
    """Departure: nothing is said after the last answer, where the release adds praise."""
    answers = iter(step["action"] for step in case["trace"])
    run = tools.make_run(lambda context, seed: next(answers))
    group = tools.group(answer=case["answer"])
    source = PolicySource(n=1, environment=SecondTry(exact, turns=5, message="#"))
    ((member,),) = source.extend([group], run)
    wrong = [step["obs"].startswith("Incorrect") for step in case["trace"]]
    wanted = "".join(
        step["action"] + "#" * said for step, said in zip(case["trace"], wrong, strict=True)
    )
    assert tools.Letters().text(member.tokens) == wanted
    assert member.signals["turns"] == len(case["trace"]) and case["trace"][-1]["done"]
    assert next(answers, None) is None


def test_it_stops_after_its_turns(tools):
    run = tools.make_run(lambda context, seed: "1")
    source = PolicySource(n=1, environment=SecondTry(exact, turns=3, message="#"))
    ((member,),) = source.extend([tools.group(answer="2")], run)
    assert tools.Letters().text(member.tokens) == "1#1#1" and not member.truncated


def test_it_says_nothing_about_an_answer_that_cannot_be_scored(tools):
    assert SecondTry(exact).reply(tools.group(answer="2").prompt, "?", 0) is None
    assert (
        SecondTry(exact).reply(tools.group(answer="2").prompt, "1", 0) == SecondTry(exact).message
    )
