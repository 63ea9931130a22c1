"""OpenAI-compatible servers, with a FAKE one on 127.0.0.1: retries, outages, token ids, judges."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from fake_http import Answers, running

from didact.core.backends.endpoint import Endpoint
from didact.core.backends.server_chat import ServerChat
from didact.core.backends.server_generator import ServerGenerator
from didact.core.backends.spread import spread
from didact.core.errors import RecipeError, RunError
from didact.core.protocols import Failed
from didact.core.types import Problem, Prompt, Request, Sampling, Trajectory
from didact.core.world import Alone
from didact.feedback.judge import LlmCritic
from didact.rewards.judge import Judge

TOKENIZER = SimpleNamespace(eos_token_id=2)


@dataclass
class Script:
    """What the FAKE server does, and what it saw."""

    answer: object = None
    failures: list = field(default_factory=list)
    models: tuple = ("tiny",)
    seen: list = field(default_factory=list)
    keys: list = field(default_factory=list)
    most: int = 0
    now: int = 0
    delay: float = 0.0
    lock: object = field(default_factory=threading.Lock)


def handler(script):
    class Handler(Answers):
        def do_GET(self):
            self.send({"data": [{"id": name} for name in script.models]})

        def do_POST(self):
            body = self.body()
            with script.lock:
                script.now += 1
                script.most = max(script.most, script.now)
                script.seen.append((self.path, body))
                script.keys.append(self.headers.get("Authorization"))
                failure = script.failures.pop(0) if script.failures else None
            time.sleep(script.delay)
            with script.lock:
                script.now -= 1
            if failure is not None:
                self.send({"error": {"message": f"no, {failure}"}}, failure)
            else:
                self.send(script.answer(body))

    return Handler


@contextmanager
def serving(script, port=0):
    with running(handler(script), port) as server:
        yield server.server_port


def endpoint(port, **settings):
    return Endpoint(f"http://127.0.0.1:{port}/v1", pause=0.01, **settings)


def completion(body, logprob=-0.5):
    """Echoes the prompt's first id and ends."""
    ids = [body["prompt"][0], 2]
    choice = {
        "token_ids": ids,
        "logprobs": {"token_logprobs": [logprob, -0.25]},
        "finish_reason": "stop",
    }
    return {"choices": [choice]}


def generator(port, **settings):
    made = ServerGenerator(
        TOKENIZER, url=f"http://127.0.0.1:{port}/v1", fixed=True, wait=5, **settings
    )
    made.servers = [endpoint(port, wait=5)]
    return made


def requests(count):
    return [Request(torch.tensor([at + 10, 5]), seed=at) for at in range(count)]


def test_samples_come_back_in_order_with_ids_and_log_probabilities():
    script = Script(completion)
    with serving(script) as port:
        samples = generator(port).generate(requests(40), Sampling(max_tokens=7))
    assert [sample.tokens.tolist() for sample in samples] == [[at + 10, 2] for at in range(40)]
    assert samples[0].logprobs.tolist() == [-0.5, -0.25] and not samples[0].truncated
    asked = sorted(body["seed"] for _, body in script.seen)
    assert asked == list(range(40))
    path, body = script.seen[0]
    assert path == "/v1/completions" and body["model"] == "tiny" and body["return_token_ids"]
    assert body["max_tokens"] == 7 and body["stop_token_ids"] == [2]


def test_text_without_token_ids_is_not_trained_on():
    def text_only(body):
        return {"choices": [{"text": "hello", "finish_reason": "stop"}]}

    with serving(Script(text_only)) as port, pytest.raises(RunError, match="token ids"):
        generator(port).generate(requests(1), Sampling())


def test_a_response_that_the_server_ends_is_not_truncated_whatever_token_ends_it():
    def other_end(body):
        return {"choices": [completion(body)["choices"][0] | {"token_ids": [10, 9]}]}

    with serving(Script(other_end)) as port:
        (sample,) = generator(port).generate(requests(1), Sampling(max_tokens=2))
    assert sample.tokens.tolist() == [10, 9] and not sample.truncated


def test_a_server_that_cuts_responses_earlier_than_asked_is_refused():
    def cut(body):
        choice = {"token_ids": [10, 9], "finish_reason": "length"}
        return {"choices": [completion(body)["choices"][0] | choice]}

    with serving(Script(cut)) as port:
        (sample,) = generator(port).generate(requests(1), Sampling(max_tokens=2))
        assert sample.truncated
        with pytest.raises(RunError, match="cut after 2 of 7 tokens"):
            generator(port).generate(requests(1), Sampling(max_tokens=7))
        short = Request(torch.tensor([10, 5]), 0, max_tokens=2)
        (sample,) = generator(port).generate([short], Sampling(max_tokens=7))
        assert sample.truncated and len(sample.tokens) == 2


def test_the_generation_settings_of_the_served_files_change_no_distribution():
    """Those that vLLM 0.32 reads from generation_config.json, if a request does not say them."""
    script = Script(completion)
    with serving(script) as port:
        generator(port).generate(requests(1), Sampling())
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    neutral |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert script.seen[0][1] | neutral == script.seen[0][1]


def test_log_probabilities_before_truncation_are_refused():
    with (
        serving(Script(completion)) as port,
        pytest.raises(RunError, match="processed_logprobs"),
    ):
        generator(port).generate(requests(1), Sampling(temperature=0.7))
    with serving(Script(lambda body: completion(body, logprob=0.0))) as port:
        assert len(generator(port).generate(requests(1), Sampling(temperature=0.7))) == 1


def test_what_becomes_of_the_served_weights_must_be_said():
    with serving(Script(completion)) as port:
        made = generator(port)
        made.resume(None, 3)
        assert made.sync(None) == {} and made.version == 0
        for wrong in ({}, {"fixed": True, "sync": "folder"}):
            with pytest.raises(RecipeError, match=r"sync=folder or nccl.*fixed=true"):
                ServerGenerator(TOKENIZER, url=f"http://127.0.0.1:{port}/v1", **wrong)


@pytest.mark.parametrize("failures", [[500], [429, 408], [503, 502, 504]])
def test_a_request_that_fails_for_now_is_asked_again(failures):
    script = Script(completion, failures=list(failures))
    with serving(script) as port:
        samples = generator(port).generate(requests(4), Sampling())
    assert len(samples) == 4 and len(script.seen) == 4 + len(failures)


def test_a_request_that_is_wrong_is_not_asked_again():
    script = Script(completion, failures=[400])
    with serving(script) as port, pytest.raises(RunError, match=r"HTTP 400.*no, 400"):
        spread([endpoint(port)], "/completions", [{"prompt": [1]}])
    assert len(script.seen) == 1


def test_a_server_that_always_fails_is_given_up():
    script = Script(completion, failures=[500] * 20)
    with serving(script) as port, pytest.raises(RunError, match="gave up after 4 tries"):
        spread([endpoint(port, retries=3)], "/completions", [{"prompt": [1]}])


def test_a_step_goes_on_when_a_lost_server_returns(caplog):
    """It dies with most of a step's requests unanswered, and comes back on the same port."""
    script = Script(completion, delay=0.02)
    samples = []
    with serving(script) as port:
        made = generator(port)
        made.servers = [endpoint(port, wait=20, concurrency=2)]
        asking = threading.Thread(
            target=lambda: samples.extend(made.generate(requests(30), Sampling()))
        )
        asking.start()
        time.sleep(0.15)
    answered = len(script.seen)
    time.sleep(0.3)
    assert not samples and 0 < answered < 30
    with serving(script, port):
        asking.join(20)
    assert [sample.tokens[0].item() for sample in samples] == [at + 10 for at in range(30)]
    assert len(script.seen) <= 30 + 2, "what was answered before was not asked again"
    told = [record for record in caplog.records if "asking again" in record.getMessage()]
    assert 1 <= len(told) <= 4, "not from every thread and try"


def test_a_server_that_stays_down_ends_the_run_with_one_line():
    with serving(Script(completion)) as port:
        pass
    began = time.monotonic()
    with pytest.raises(RunError, match=r"no answer for 0.3 s .*refused.*--resume"):
        spread([endpoint(port, wait=0.3)], "/completions", [{"prompt": [1]}] * 5)
    assert time.monotonic() - began < 3


def test_no_more_requests_are_under_way_than_allowed():
    script = Script(completion, delay=0.02)
    with serving(script) as port:
        spread([endpoint(port, concurrency=3)], "/completions", [{"prompt": [1]}] * 12)
    assert script.most == 3


def test_a_slow_answer_counts_as_none():
    slow = Script(completion, delay=0.4)
    with serving(slow) as port, pytest.raises(RunError, match="timed out"):
        spread([endpoint(port, timeout=0.05, wait=0.1)], "/completions", [{"prompt": [1]}])


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "abc")
    script = Script(completion)
    with serving(script) as port:
        spread([endpoint(port, key="SOME_KEY")], "/completions", [{"prompt": [1]}])
    assert script.keys == ["Bearer abc"]


def test_one_of_several_models_must_be_named():
    with serving(Script(completion, models=("a", "b"))) as port:
        with pytest.raises(RunError, match="a, b"):
            generator(port)
        assert generator(port, served="b").served == "b"


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
