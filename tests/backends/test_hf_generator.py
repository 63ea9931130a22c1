"""The transformers generator: its log-probabilities, seeds, padding and truncation."""

import pytest
import torch

from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.models import ModelSpec, load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.sampling import draw, truncated, uniforms
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RecipeError, RunError
from didact.core.types import Problem, Prompt, Request, Sampling, Trajectory


def requests(count=12, equal=False, seed=0):
    draw_ = torch.Generator().manual_seed(seed)
    sizes = [6 if equal else 1 + at % 5 for at in range(count)]
    return [
        Request(torch.randint(3, 99, (n,), generator=draw_), 1000 + at)
        for at, n in enumerate(sizes)
    ]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.tokens, b.tokens) and a.truncated == b.truncated
        torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["packed", "sdpa", "eager"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_its_log_probabilities_are_the_learners(spec, tokenizer, model, attention, temperature):
    model.set_attn_implementation({"packed": "didact_packed"}.get(attention, attention))
    asked = requests()
    samples = HFGenerator(model, tokenizer).generate(
        asked, Sampling(temperature=temperature, max_tokens=20)
    )
    rows = [
        Trajectory(
            Prompt("p", r.context, Problem("p", "")), s.tokens, torch.ones(len(s.tokens)), "policy"
        )
        for r, s in zip(asked, samples, strict=True)
    ]
    learner = TorchLearner(model, tokenizer, {}, temperature)
    for row, sample in zip(learner.freeze(rows, frozenset({"x_logprobs"})), samples, strict=True):
        torch.testing.assert_close(row.columns["x_logprobs"], sample.logprobs, atol=1e-5, rtol=0)


def test_a_request_gets_the_same_whatever_stands_beside_it(tokenizer, model):
    generator, sampling = HFGenerator(model, tokenizer), Sampling(max_tokens=16)
    asked = requests()
    together = generator.generate(asked, sampling)
    assert_same(together, [generator.generate([one], sampling)[0] for one in asked])
    assert_same(together, generator.generate(asked[::-1], sampling)[::-1])
    small = HFGenerator(model, tokenizer, max_batch=60)
    assert_same(together, small.generate(asked, sampling))


def test_greedy_decoding_is_that_of_transformers(tokenizer, model):
    asked = requests(4, equal=True)
    ours = HFGenerator(model, tokenizer).generate(asked, Sampling(temperature=0, max_tokens=12))
    ids = torch.stack([r.context for r in asked])
    theirs = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)[:, 6:]
    for row, sample in zip(theirs, ours, strict=True):
        assert torch.equal(row[: len(sample.tokens)], sample.tokens)
        logits = model(torch.cat([asked[0].context, ours[0].tokens])[None]).logits[0, 5:-1]
    want = logits.log_softmax(-1).gather(-1, ours[0].tokens[:, None])[:, 0]
    torch.testing.assert_close(ours[0].logprobs, want, atol=1e-5, rtol=0)


def test_a_response_ends_with_its_first_end_token_or_is_truncated(tokenizer, model):
    with torch.no_grad():
        model.model.embed_tokens.weight[2] += 0.3  # end-of-sequence becomes likely
    samples = HFGenerator(model, tokenizer).generate(requests(64), Sampling(max_tokens=24))
    lengths = {len(s.tokens) for s in samples}
    assert len(lengths) > 5 and any(s.truncated for s in samples)
    for sample in samples:
        ends = (sample.tokens == 2).sum().item()
        assert ends == (0 if sample.truncated else 1)
        assert sample.truncated or sample.tokens[-1] == 2
        assert len(sample.logprobs) == len(sample.tokens) and (sample.logprobs < 0).all()
        assert not sample.truncated or len(sample.tokens) == 24


def test_samples_follow_the_distribution():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, 0.5]).expand(40_000, 5)
    numbers = uniforms([5], 40_000)[0]
    tokens, logprobs = draw(logits, numbers, Sampling(temperature=0.5))
    want = (logits[0] / 0.5).softmax(-1)
    seen = torch.bincount(tokens, minlength=5) / 40_000
    assert (seen - want).abs().max() < 4 * (0.25 / 40_000) ** 0.5
    torch.testing.assert_close(logprobs.exp(), want[tokens], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [(2, 1.0, [0, 3]), (0, 0.6, [0, 3]), (0, 0.55, [0]), (1, 0.9, [0]), (0, 1.0, [0, 1, 2, 3])],
)
def test_truncation_keeps_the_nucleus_and_renormalises(top_k, top_p, kept):
    probs = torch.tensor([[0.56, 0.06, 0.08, 0.3]])
    cut = truncated(probs.log(), top_k, top_p)
    assert cut.isfinite().nonzero()[:, 1].tolist() == kept
    sampling = Sampling(top_k=top_k, top_p=top_p)
    for number in (0.0, 0.3, 0.999999):
        token, logprob = draw(probs.log(), torch.tensor([number], dtype=torch.float64), sampling)
        assert token.item() in kept
        assert logprob.exp().item() == pytest.approx(
            (probs[0, token] / probs[0, kept].sum()).item(), rel=1e-5
        )


def test_uniform_numbers_do_not_depend_on_how_many_are_asked_for():
    assert torch.equal(uniforms([7, 8], 5), uniforms([7, 8], 50)[:, :5])
    assert not torch.equal(uniforms([7], 5), uniforms([8], 5))


def test_sync_copies_the_weights_and_counts(spec, tokenizer, model):
    generator = HFGenerator(load_model(spec, tokenizer), tokenizer)
    learner = TorchLearner(model, tokenizer, {"main": OptimizerSpec()})
    generator.sync(learner)
    assert generator.version == 1
    assert generator.generate(requests(1), Sampling(max_tokens=2))[0].version == 1
    for (_, a), b in zip(learner.weights(), generator.model.parameters(), strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    generator.resume(learner, 7)
    assert generator.version == 7


class Sends:
    def __init__(self, pairs):
        self.pairs = pairs

    def weights(self):
        yield from self.pairs


def test_sync_notices_missing_extra_and_misshapen_parameters(spec, tokenizer, model):
    generator = HFGenerator(load_model(spec, tokenizer), tokenizer)
    right = [(n, p.detach()) for n, p in model.named_parameters()]
    with pytest.raises(RunError, match=r"did not send model\.embed_tokens"):
        generator.sync(Sends(right[1:]))
    with pytest.raises(RunError, match=r"has no parameter .lm_head\.weight."):
        generator.sync(Sends([*right, ("lm_head.weight", right[0][1])]))
    with pytest.raises(RunError, match=r"shape \(98, 48\) in the learner"):
        generator.sync(Sends([(right[0][0], right[0][1][:98]), *right[1:]]))
    assert generator.version == 0


def test_progress_counts_up_to_all(tokenizer, model):
    generator, seen = HFGenerator(model, tokenizer, max_batch=80), []
    generator.progress = lambda done, total: seen.append((done, total))
    generator.generate(requests(), Sampling(max_tokens=8))
    assert all(total == 12 for _, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_nothing_asked_gives_nothing(tokenizer, model):
    assert HFGenerator(model, tokenizer).generate([], Sampling()) == []


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)])
def test_logits_that_are_no_numbers_are_told_and_not_drawn_from(
    tokenizer, model, temperature, top_p
):
    generator = HFGenerator(model, tokenizer)

    def broken(module, arguments, settings, out):
        if settings["past_key_values"].get_seq_length() > 6:
            out.logits[1] = torch.nan

    generator.model.register_forward_hook(broken, with_kwargs=True)
    with pytest.raises(RunError, match=r"token 2 of a response \(the 2\. of 3\).*NaN"):
        generator.generate(requests(3, equal=True), Sampling(temperature, top_p, max_tokens=4))


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "codegen", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
         r"'codegen' with 'attention: packed' does not keep padded contexts apart"),
        (SMALL | {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
         r"'lfm2' hands a state on .*'vllm'"),
    ],
    ids=["attention of its own", "convolution"],
)  # fmt: skip
def test_a_model_that_says_something_else_to_a_padded_context_is_refused(tokenizer, config, said):
    model = load_model(ModelSpec(config=config, tokenizer="characters"), tokenizer)
    with pytest.raises(RecipeError, match=said):
        HFGenerator(model, tokenizer)


@pytest.mark.parametrize("attention", ["packed", "sdpa"])
def test_more_tokens_than_a_sliding_window_are_refused_however_the_model_tells_it(
    tokenizer, attention
):
    config = SMALL | {"model_type": "mistral", "sliding_window": 8}
    model = load_model(
        ModelSpec(config=config, tokenizer="characters", attention=attention), tokenizer
    )
    generator = HFGenerator(model, tokenizer)
    assert len(generator.generate(requests(), Sampling(max_tokens=3))) == 12
    with pytest.raises(RunError, match="13 tokens exceed the model's sliding window of 8"):
        generator.generate(requests(), Sampling(max_tokens=8))
