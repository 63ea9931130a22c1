"""Judges, critics and chats behind OpenAI-compatible servers, with a FAKE one."""

from types import SimpleNamespace

import pytest
import torch
from fake_openai import Script, endpoint, serving

from didact.core.backends.server_chat import ServerChat
from didact.core.errors import RecipeError
from didact.core.protocols import Failed
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.world import Alone
from didact.feedback.judge import LlmCritic
from didact.rewards.judge import Judge


def said(text):
    def answer(body):
        return {"choices": [{"message": {"content": text(body["messages"][0]["content"])}}]}

    return answer


def trajectory(text, answer="4"):
    prompt = Prompt("p", torch.tensor([1]), Problem("p", "2+2?", answer))
    return Trajectory(prompt, torch.tensor([3, 2]), torch.ones(2).bool(), "policy", text=text)


def test_a_judge_reads_the_last_score_and_fails_without_one():
    def opinion(prompt):
        if "none" in prompt:
            return "I like it"
        return "Score: 9 was my first thought.\nScore: 11" if "big" in prompt else "score: 7.5"

    with serving(Script(said(opinion))) as port:
        judge = Judge(f"http://127.0.0.1:{port}/v1")
        good, none, big = judge([trajectory(text) for text in ("4 {x}", "none", "big")])
    assert good == 0.75
    assert isinstance(none, Failed) and "no score" in none.reason
    assert isinstance(big, Failed) and "11" in big.reason


def test_a_judgement_that_was_cut_is_no_score():
    def cut(body):
        return {"choices": [{"message": {"content": "Score: 1"}, "finish_reason": "length"}]}

    with serving(Script(cut)) as port:
        (value,) = Judge(f"http://127.0.0.1:{port}/v1", max_tokens=5)([trajectory("4")])
    assert isinstance(value, Failed) and "max_tokens of 5" in value.reason


def test_a_judge_needs_question_and_response_in_its_template():
    with pytest.raises(RecipeError, match=r"\{response\}"):
        Judge("http://127.0.0.1:1/v1", template="{question}")


def test_a_critic_behind_a_server_speaks_about_every_trajectory():
    script = Script(said(lambda prompt: "" if "quiet" in prompt else f"about {len(prompt)}"))
    with serving(script) as port:
        critic = LlmCritic(url=f"http://127.0.0.1:{port}/v1")
        heard = critic([trajectory("4"), trajectory("quiet")], SimpleNamespace(world=Alone()))
    assert heard[0].text.startswith("about") and heard[0].source == "llm"
    assert isinstance(heard[1], Failed)
    assert "2+2?" in script.seen[0][1]["messages"][0]["content"]


def test_a_chat_asks_with_its_settings():
    script = Script(said(lambda prompt: prompt.upper()))
    with serving(script) as port:
        chat = ServerChat(endpoint(port), "m", temperature=0.3, max_tokens=5, seed=1)
        assert chat([[{"role": "user", "content": "hi"}]]) == [("HI", False)]
    body = script.seen[0][1]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == (
        "m",
        0.3,
        5,
        1,
    )
