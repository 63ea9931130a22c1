"""OpenAI-compatible servers, with a FAKE one on 127.0.0.1: token ids, retries, outages."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch
from fake_openai import Script, endpoint, serving

from didact.core.backends.server_generator import ServerGenerator
from didact.core.backends.spread import spread
from didact.core.errors import RecipeError, RunError
from didact.core.types import Request, Sampling

TOKENIZER = SimpleNamespace(eos_token_id=2)


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
