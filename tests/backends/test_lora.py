"""Adapters: the function W + s B A, a base that never moves, merged weights wherever they go."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

pytest.importorskip("peft")
from conftest import TINY

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.engines import open_recipe
from didact.configs.load import check
from didact.core.backends import lora
from didact.core.backends.forward import Readouts
from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.lora import LoraSpec, WithoutAdapters, adapted, merged, scales
from didact.core.backends.models import load_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.probe import Probe
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RecipeError
from didact.core.types import Request, Sampling
from didact.core.world import Alone
from didact.plugins.manager import load

FOUR = LoraSpec(rank=4, alpha=8.0)
ADAM = {"main": OptimizerSpec(lr=1e-2)}
MEASURE = {"main": OptimizerSpec(lr=0.0, clip=None)}


class Sum(nn.Module):
    """W + s B A, written out."""

    def __init__(self, linear, rank, scale, draw):
        super().__init__()
        self.weight, self.scale = linear.weight.detach().clone(), scale
        self.down = nn.Parameter(torch.randn(rank, linear.in_features, generator=draw) * 0.1)
        self.up = nn.Parameter(torch.randn(linear.out_features, rank, generator=draw) * 0.1)

    def forward(self, x):
        return nn.functional.linear(x, self.weight + self.scale * (self.up @ self.down))


def moved(model, spec=FOUR):
    """Adapters whose B is no longer 0."""
    made = adapted(model, spec, seed=1)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, param in made.named_parameters():
            if lora.UP in name:
                param.copy_(torch.randn(param.shape, generator=draw) * 0.05)
    return made


def adapters(model):
    return {n: p for n, p in model.named_parameters() if lora.UP in n or lora.DOWN in n}


class Recorder(TorchLearner):
    """Keeps the gradient that a step would have used."""

    def _step(self, name, batch):
        self.gradient = [m.grad.clone() for m in self.masters]
        return super()._step(name, batch)


def frozen_part(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    "settings",
    [{}, {"packing": False, "max_tokens": 40}, {"gradient_checkpointing": True}, {"logits": 700}],
    ids=str,
)
def test_the_gradient_is_that_of_the_sum_written_out(fresh, tokenizer, batch, rule, settings):
    ours, theirs = moved(fresh()), fresh()
    theirs.requires_grad_(False)
    draw = torch.Generator().manual_seed(9)
    pairs = []
    for name, scale in scales(ours).items():
        owner, _, last = name.rpartition(".")
        written = Sum(theirs.get_submodule(name), FOUR.rank, scale, draw)
        setattr(theirs.get_submodule(owner), last, written)
        layer = ours.get_submodule(name)
        pairs += [(layer.lora_A["default"].weight, written.down)]
        pairs += [(layer.lora_B["default"].weight, written.up)]
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine)
    learner = Recorder(ours, tokenizer, MEASURE, **settings)
    assert [id(p) for p in learner.params] == [id(mine) for mine, _ in pairs]
    metrics = learner.update(batch, rule, "main", 0)
    rows = [(row.prompt.tokens, row.tokens) for row in batch.rows]
    read = Readouts(theirs).read(rows, frozenset({"logprobs", "entropy", "mean_logprobs"}))
    live = {**read, "old_logprobs": read["logprobs"].detach()}
    loss = sum(rule.over(batch, 0)(batch, live).values())
    loss.backward()
    assert metrics["loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
    for mine, (_, other) in zip(learner.gradient, pairs, strict=True):
        torch.testing.assert_close(mine, other.grad, atol=1e-6, rtol=1e-5)


def test_training_moves_the_adapters_and_nothing_else(fresh, tokenizer, mixed, rule):
    model, start = adapted(fresh(), FOUR, seed=0), fresh()
    for (name, a), (other, b) in zip(
        merged(model.named_parameters(), scales(model)), start.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(a, b), name  # B is 0
    learner = TorchLearner(model, tokenizer, ADAM)
    before, held = frozen_part(model), {n: p.clone() for n, p in adapters(model).items()}
    for at in range(3):
        learner.update(mixed(at), rule, "main", at)
    after = frozen_part(model)
    assert before.keys() == after.keys() and len(held) == 2 * len(scales(model))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not torch.equal(held[name], param) for name, param in adapters(model).items())
    count = sum(master.numel() for master in learner.state_dict()["masters"])
    assert count == sum(param.numel() for param in held.values())


def test_two_and_two_steps_equal_four_bitwise(spec, tokenizer, mixed, rule, tmp_path):
    def made():
        return TorchLearner(adapted(load_model(spec, tokenizer), FOUR, 0), tokenizer, ADAM)

    one, first, second = made(), made(), made()
    for at in range(4):
        one.update(mixed(at), rule, "main", at)
    for at in range(2):
        first.update(mixed(at), rule, "main", at)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for at in range(2, 4):
        second.update(mixed(at), rule, "main", at)
    for (name, a), (_, b) in zip(one.weights(), second.weights(), strict=True):
        assert torch.equal(a, b), name


def test_the_base_is_read_through_the_adapters_and_leaves_them_as_they_were(
    fresh, tokenizer, batch
):
    learner, columns = TorchLearner(moved(fresh()), tokenizer, ADAM), frozenset({"ref_logprobs"})
    before = learner.freeze(batch.rows, columns)
    found = WithoutAdapters(learner, learner.model).freeze(batch.rows, columns)
    base = TorchLearner(fresh(), tokenizer, {}).freeze(batch.rows, columns)
    after = learner.freeze(batch.rows, columns)
    for rows in zip(before, found, base, after, strict=True):
        adapted_, read, plain, again = (row.columns["ref_logprobs"] for row in rows)
        assert torch.equal(adapted_, again) and not torch.equal(adapted_, read)
        torch.testing.assert_close(read, plain, atol=1e-6, rtol=0)


def test_a_generator_serves_the_merged_model_and_the_probe_holds(fresh, tokenizer, batch, rule):
    learner = TorchLearner(moved(fresh()), tokenizer, ADAM)
    learner.update(batch, rule, "main", 0)
    generator = HFGenerator(fresh(), tokenizer)
    generator.sync(learner)
    whole = fresh()
    whole.load_state_dict(dict(learner.weights()), strict=False)
    by_hand = HFGenerator(whole, tokenizer)
    requests = [Request(row.prompt.tokens, at) for at, row in enumerate(batch.rows[:4])]
    sampling = Sampling(max_tokens=8)
    for a, b in zip(
        generator.generate(requests, sampling), by_hand.generate(requests, sampling), strict=True
    ):
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.logprobs, b.logprobs)
    assert Probe(99, 1.0, 1e-5).gap(generator.generate, learner, Alone()) < 2e-6
    stale = HFGenerator(fresh(), tokenizer)
    assert Probe(99, 1.0, 1e-5).gap(stale.generate, learner, Alone()) > 1e-3


def test_the_saved_model_is_merged(fresh, tokenizer, batch, rule, tmp_path):
    learner = TorchLearner(moved(fresh()), tokenizer, ADAM)
    learner.update(batch, rule, "main", 0)
    learner.save(tmp_path / "final")
    assert not list((tmp_path / "final").glob("*adapter*"))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    for (name, a), (other, b) in zip(learner.weights(), saved.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b), name
    ids = torch.arange(3, 30)[None]
    assert torch.allclose(saved(ids).logits, learner.model(ids).logits, atol=1e-5)


def test_adapters_of_a_bfloat16_model_keep_float32_masters(spec, tokenizer, batch, rule):
    half = load_model(spec.model_copy(update={"dtype": "bfloat16"}), tokenizer)
    learner = TorchLearner(adapted(half, FOUR, 0), tokenizer, {"main": OptimizerSpec(lr=1e-6)})
    assert {p.dtype for p in learner.params} == {torch.bfloat16}
    start = [m.clone() for m in learner.masters]
    for at in range(3):
        learner.update(batch, rule, "main", at)
    moved = max(float((a - b).abs().max()) for a, b in zip(start, learner.masters, strict=True))
    assert {m.dtype for m in learner.masters} == {torch.float32} and 1e-6 < moved < 1e-5
    assert all(value.dtype == torch.bfloat16 for _, value in learner.weights())


def test_only_chosen_layers_are_adapted_and_biases_are_kept(fresh):
    model = moved(fresh(), LoraSpec(rank=2, targets=["q_proj", "model.layers.1.mlp.up_proj"]))
    ends = {name.rpartition("layers.")[2] for name in scales(model)}
    assert ends == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.up_proj"}
    named = [
        ("a.base_layer.weight", torch.eye(2)),
        ("a.base_layer.bias", torch.ones(2)),
        ("a.lora_A.default.weight", torch.tensor([[1.0, 2.0]])),
        ("a.lora_B.default.weight", torch.tensor([[3.0], [0.0]])),
        ("b.weight", torch.zeros(1)),
    ]
    found = dict(merged(named, {"a": 0.5}))
    assert found["a.weight"].tolist() == [[2.5, 3.0], [0.0, 1.0]]
    assert found["a.bias"].tolist() == [1.0, 1.0]
    assert found.keys() == {"a.weight", "a.bias", "b.weight"}


@pytest.mark.parametrize("target", ["lm_head", "q_prj", "embed_tokens"])
def test_targets_that_are_no_linear_layers_of_the_body_are_named(model, target):
    with pytest.raises(
        RecipeError, match=f"no linear layer '{target}' to adapt; there is down_proj"
    ):
        adapted(model, LoraSpec(rank=2, targets=[target]), 0)


def test_a_reference_that_is_the_base_loads_no_second_model(tmp_path):
    registry = load(installed=False)

    def opened(*more):
        document = read("grpo_deepseek", [*TINY, "models.policy.lora.rank=2", *more])
        recipe = check(document, registry)
        parts = assemble(recipe, registry, document)
        return open_recipe(recipe, parts, registry, recipe.models["policy"]).run.frozen["ref"]

    assert isinstance(opened(), WithoutAdapters)
    assert not isinstance(opened("models.ref={seed: 3}"), WithoutAdapters)


def test_a_run_with_adapters_is_one_override(run):
    rewards = "rewards.correct={use: full_match, pattern: '.*=.*'}"
    args = ("sft", "steps=2", "checkpoint.every=1", rewards, "optimizers.main.lr=1e-2")
    plain, low = (
        run(*args, *more, folder=folder)
        for folder, more in (("plain", []), ("low", ["models.policy.lora.rank=4"]))
    )
    saved = [
        dict(AutoModelForCausalLM.from_pretrained(out / "final").named_parameters())
        for out in (plain, low)
    ]
    changed = {name for name in saved[0] if not torch.equal(saved[0][name], saved[1][name])}
    assert saved[0].keys() == saved[1].keys() and len(changed) > 10
    sizes = [
        [m.shape for m in torch.load(state, weights_only=True)["learners"]["policy"]["masters"]]
        for state in (out / "checkpoints/step-000001/rank-0.pt" for out in (plain, low))
    ]
    assert len(sizes[1]) == 2 * 7 * 2 and all(4 in shape for shape in sizes[1])
    assert len(sizes[0]) == len(saved[0])
