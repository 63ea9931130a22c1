"""The forward pass: packed is padded, chunked is whole, readouts are what their names say."""

import pytest
import torch

from didact.core.backends import forward
from didact.core.backends.forward import OF_LOGITS, Readouts
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.errors import RecipeError, RunError

TOKENIZER = load_tokenizer(ModelSpec(config=quickstart_model(), tokenizer="characters"))
SHAPES = {
    "qwen3": quickstart_model() | {"num_key_value_heads": 2},
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "tie_word_embeddings": False,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
}


def spec(shape="qwen3", **settings):
    return ModelSpec(config=SHAPES[shape], tokenizer="characters", **settings)


def louder(model, seed=3):
    """Weights far from their start, so that distributions are not nearly uniform."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def rows(seed=0, sizes=((3, 5), (1, 4), (7, 1), (2, 9), (4, 0))):
    draw = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 99, (n,), generator=draw) for n in pair) for pair in sizes]


def value_and_gradient(model, names=OF_LOGITS, **settings):
    """Every readout, and the gradient of a random combination of them."""
    model.zero_grad()
    out = Readouts(model, **settings).read(rows(), frozenset(names))
    draw = torch.Generator().manual_seed(5)
    weights = {n: torch.randn(v.shape, generator=draw) for n, v in sorted(out.items())}
    sum((out[n] * weights[n]).sum() for n in out).backward()
    return out, {n: p.grad.clone() for n, p in model.named_parameters()}


def assert_same(first, second, tolerance=1e-6):
    """Equal within `tolerance`, relative to the largest value of all if that is above 1."""
    assert first.keys() == second.keys()
    scale = max([1.0, *(float(a.detach().abs().max()) for a in first.values() if a.numel())])
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["packed", "sdpa", "eager"])
def test_packed_equals_padded_in_value_and_gradient(shape, attention):
    model = louder(load_model(spec(shape, attention=attention), TOKENIZER))
    packed, padded = (value_and_gradient(model, packing=on) for on in (True, False))
    assert_same(packed[0], padded[0])
    assert_same(packed[1], padded[1])


@pytest.mark.parametrize("packing", [True, False])
def test_chunked_equals_whole_in_value_and_gradient(packing):
    model = louder(load_model(spec(), TOKENIZER))
    whole = value_and_gradient(model, packing=packing)
    chunked = value_and_gradient(model, packing=packing, chunk=3 * 99)
    assert_same(whole[0], chunked[0])
    assert_same(whole[1], chunked[1])


def test_no_more_logits_than_a_chunk_exist_at_once(monkeypatch):
    model = load_model(spec(), TOKENIZER)
    seen = []
    plain = forward._logits

    def counted(*inputs):
        seen.append(plain(*inputs).numel())
        return plain(*inputs)

    reader = Readouts(model, chunk=4 * 99)
    monkeypatch.setattr(forward, "_logits", counted)
    reader.read(rows(), frozenset({"logprobs"}))["logprobs"].sum().backward()
    assert max(seen) <= 4 * 99 and sum(seen) == 2 * 19 * 99  # forward, and again in backward


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_readouts_equal_their_definitions_row_by_row(temperature):
    model = louder(load_model(spec(), TOKENIZER))
    with torch.no_grad():
        out = Readouts(model, temperature=temperature).read(rows(), OF_LOGITS)
        for at, (context, response) in enumerate(rows()):
            logits = model(torch.cat([context, response])[None]).logits[0, len(context) - 1 : -1]
            logp = (logits / temperature).log_softmax(-1)
            want = {
                "logprobs": logp.gather(-1, response[:, None])[:, 0],
                "entropy": -(logp.exp() * logp).sum(-1),
                "mean_logprobs": logp.mean(-1),
                "collision": logp.exp().square().sum(-1),
            }
            assert_same({n: out[n][at, : len(response)] for n in want}, want)
            assert all(not out[n][at, len(response) :].any() for n in want)


def test_a_watched_readout_has_the_value_but_no_gradient():
    model = louder(load_model(spec(), TOKENIZER))
    both = Readouts(model).read(rows(), frozenset({"logprobs"}), frozenset({"entropy"}))
    live = Readouts(model).read(rows(), frozenset({"logprobs", "entropy"}))
    assert torch.equal(both["entropy"], live["entropy"])
    assert not both["entropy"].requires_grad and both["logprobs"].requires_grad


@pytest.mark.parametrize("packing", [True, False])
def test_values_are_read_at_the_same_positions(packing):
    model = louder(load_model(spec(kind="value"), TOKENIZER))
    out = Readouts(model, packing=packing).read(rows(), frozenset({"values"}))["values"]
    context, response = rows()[3]
    hidden = model.model(torch.cat([context, response])[None]).last_hidden_state
    want = model.head(hidden)[0, len(context) - 1 : -1, 0]
    torch.testing.assert_close(out[3], want, atol=2e-6, rtol=0)


def test_rows_without_any_response_still_touch_every_parameter():
    model = load_model(spec(), TOKENIZER)
    out = Readouts(model).read(
        [(torch.tensor([1]), torch.tensor([], dtype=torch.int64))], OF_LOGITS
    )
    sum(v.sum() for v in out.values()).backward()
    assert out["logprobs"].shape == (1, 0)
    assert all(p.grad is not None for p in model.model.parameters())


def test_what_a_model_cannot_read_out_is_refused():
    with pytest.raises(RecipeError, match=r"cannot read out \['values'\]"):
        Readouts(load_model(spec(), TOKENIZER)).read(rows(), frozenset({"values"}))


def test_a_model_that_transforms_its_logits_is_refused():
    model = louder(load_model(spec(), TOKENIZER))
    plain = model.forward

    def capped(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = 0.5 * torch.tanh(out.logits / 0.5)
        return out

    model.forward = capped
    with pytest.raises(RecipeError, match="soft-capping"):
        Readouts(model)


def test_a_sequence_beyond_a_sliding_window_is_refused():
    shape = {
        "model_type": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 0,
    }
    model = load_model(
        ModelSpec(config=quickstart_model() | shape, tokenizer="characters"), TOKENIZER
    )
    reader = Readouts(model)
    with pytest.raises(RunError, match="sliding window of 8"):
        reader.read(rows(), frozenset({"logprobs"}))


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
}
LEAKS = {
    "stablelm": ("packed", SMALL),  # its layers do not hand on where rows end
    "opt": ("sdpa", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}),  # makes no mask of places
    "lfm2": ("packed", SMALL | {"layer_types": ["conv", "full_attention"]}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", LEAKS)
def test_a_model_that_lets_packed_rows_see_each_other_is_refused(kind, dtype):
    attention, config = LEAKS[kind]
    config = config | {"model_type": kind}
    given = ModelSpec(config=config, tokenizer="characters", attention=attention, dtype=dtype)
    model = load_model(given, TOKENIZER)
    said = f"model type '{kind}' with 'attention: {attention}'.*row.*'packing: false'"
    with pytest.raises(RecipeError, match=said):
        Readouts(model)
    Readouts(model, packing=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["packed", "sdpa", "eager"])
@pytest.mark.parametrize("packing", [True, False])
def test_a_fresh_model_in_half_precision_is_not_refused_for_its_rounding(shape, attention, packing):
    given = spec(shape, attention=attention, dtype="bfloat16")
    Readouts(load_model(given, TOKENIZER), packing=packing)


def test_a_model_whose_rows_see_the_padding_behind_them_is_refused():
    config = {"model_type": "codegen", "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8}
    model = load_model(ModelSpec(config=config, tokenizer="characters"), TOKENIZER)
    with pytest.raises(RecipeError, match=r"does not keep rows apart: give another 'attention'\.$"):
        Readouts(model, packing=False)
