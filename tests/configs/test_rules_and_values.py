"""Recipes that name whole rules, value models without weights of their own, and reward offsets."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from didact.algorithms.average import Constant
from didact.algorithms.pairs import Pairwise
from didact.algorithms.rules import Joined, Sum
from didact.configs import launch
from didact.configs.assemble import assemble
from didact.configs.build import Builder
from didact.configs.document import read
from didact.configs.load import check
from didact.configs.plan import plan
from didact.configs.schema import LossSpec, PhaseSpec, RuleSpec
from didact.core.backends.lora import LoraSpec
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer
from didact.core.batch import Batch
from didact.core.errors import RecipeError
from didact.core.types import Problem, Prompt, Trajectory
from didact.plugins.manager import load
from didact.plugins.spec import Reward

REGISTRY = load(installed=False)
SMALL = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 16,
}


def phase(rule):
    spec = PhaseSpec.model_validate({"rule": rule}, context={"registry": REGISTRY})
    return spec, Builder(REGISTRY).phase("rl", spec).rule


def test_a_name_is_looked_up_among_losses_and_whole_rules():
    spec, rule = phase({"use": "pairwise", "beta": 0.3})
    assert isinstance(spec.rule[0], RuleSpec)
    assert isinstance(rule, Joined) and rule.rules == [Pairwise(beta=0.3)]
    assert spec.model_dump(mode="json")["rule"][0] == {
        "use": "pairwise",
        "beta": 0.3,
        "smoothing": 0.0,
        "mean": False,
    }
    spec, rule = phase("sft")
    assert isinstance(spec.rule[0], LossSpec) and isinstance(rule, Sum)


def test_losses_and_a_whole_rule_are_added():
    _, rule = phase(["pairwise", {"use": "sft", "weight": 0.5, "where": {"preferred": 1}}])
    assert rule.needs == {"logprobs", "ref_logprobs", "pair", "preferred"}
    rows = []
    for preferred in (1.0, 0.0):
        rows.append(
            Trajectory(
                Prompt("p", torch.tensor([1]), Problem("p", "p")),
                torch.tensor([3, 4]),
                torch.ones(2, dtype=torch.bool),
                "policy",
                signals={"pair": 1.0, "preferred": preferred},
                columns={"ref_logprobs": torch.zeros(2)},
            )
        )
    batch = Batch(tuple(rows))
    live = {"logprobs": torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])}
    terms = rule.over(batch, 0)(batch, live)
    assert terms["sft"].item() == pytest.approx(0.5 * 1.5)
    logit = torch.tensor(0.1 * (-3.0 + 7.0))
    assert terms["pairwise"].item() == pytest.approx(torch.log1p((-logit).exp()).item())
    assert rule.idle(batch) == [False, False]


def test_a_whole_rule_that_has_a_denominator_has_the_phases():
    spec = PhaseSpec.model_validate(
        {"rule": "balanced_clip", "average": {"per_sequence": 8}}, context={"registry": REGISTRY}
    )
    (rule,) = Builder(REGISTRY).phase("rl", spec).rule.rules
    assert rule.average == Constant(per_sequence=8)


def test_a_denominator_without_what_is_selected_needs_a_selection():
    with pytest.raises(RecipeError, match="'recount' leaves out what 'select' gives 0"):
        phase({"use": "ppo_clip", "times": ["rejection"], "recount": True})


def test_settings_of_a_whole_rule_are_checked():
    with pytest.raises(ValidationError, match="Did you mean 'beta'"):
        phase({"use": "pairwise", "btea": 1})
    with pytest.raises(ValidationError, match="no loss named 'pairwse'"):
        phase("pairwse")


def test_a_reward_has_a_weight_and_an_offset():
    given = {"use": "exact_match", "weight": 2, "offset": -1}
    reward = Reward.model_validate(given, context={"registry": REGISTRY})
    assert (reward.weight, reward.offset) == (2, -1)


def test_a_value_model_without_weights_starts_from_the_policys():
    policy = ModelSpec(config=SMALL, tokenizer="characters", seed=4)
    value = ModelSpec(kind="value").following(policy)
    assert (value.kind, value.config, value.seed) == ("value", SMALL, 4)
    tokenizer = load_tokenizer(policy)
    causal, critic = load_model(policy, tokenizer), load_model(value, tokenizer)
    theirs = dict(causal.model.named_parameters())
    for name, weight in critic.model.named_parameters():
        assert torch.equal(weight, theirs[name])
    assert not critic.head.weight.any()
    own = ModelSpec(kind="value", config=SMALL, tokenizer="characters")
    assert own.following(policy) is own


def test_a_model_names_its_weights_once_or_is_the_policy_with_other_settings():
    with pytest.raises(ValidationError, match="only one of 'path' and 'config'"):
        ModelSpec(kind="value", path="x", config=SMALL)
    policy = ModelSpec(path="x", seed=4, lora=LoraSpec(rank=2))
    half = ModelSpec(dtype="bfloat16").following(policy)
    assert half == ModelSpec(path="x", seed=4, dtype="bfloat16")


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["models.policy={path: x}"], "models.policy: names weights, and so does 'base'"),
        (["base=null", "models.policy={seed: 1}"], "models.policy: has no weights; give one of"),
        (["models.ref.lora.rank=2"], "models.ref.lora: no phase trains 'ref'"),
        (["models.policy={kind: value, lora: {rank: 2}}"], "'lora' is for causal models"),
        (["models.policy.lora.rank=0"], "models.policy.lora.rank: .*greater than or equal to 1"),
        (["models.policy.lora={rank: 2, dropout: 0.1}"], "models.policy.lora.dropout"),
    ],
)
def test_weights_named_twice_or_not_at_all_and_useless_adapters_are_refused(overrides, said):
    document = read("grpo", overrides)
    with pytest.raises(RecipeError, match=said):
        assemble(check(document, REGISTRY), REGISTRY, document)


def test_adapters_on_a_packaged_recipe_with_a_base_are_one_override(monkeypatch):
    override = ["models.policy.lora.rank=4"]
    recipe = check(read("grpo", override), REGISTRY)
    monkeypatch.setattr(launch, "make_base", lambda *_: "made")
    found = launch.policy_of(recipe, None, REGISTRY, launch.Console(quiet=True))
    assert found == ModelSpec(path="made", lora=LoraSpec(rank=4))
    lines = "\n".join(plan("grpo", override))
    # rank 4 at both ends of 3 x (q, k, v, o: 96 + 96; gate, up, down: 96 + 192)
    assert f"{3 * 4 * (4 * 192 + 3 * 288):,} of them learn" in lines
    assert "ref: is the policy with its adapters off" in lines
    bare = launch.policy_of(
        check(read("grpo"), REGISTRY), None, REGISTRY, launch.Console(quiet=True)
    )
    assert bare == ModelSpec(path="made")
