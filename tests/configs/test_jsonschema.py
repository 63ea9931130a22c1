"""The JSON Schema of recipes takes what is right and refuses mistakes, plug-ins included."""

import json
from types import SimpleNamespace

import pytest

from didact import hookimpl
from didact.configs.document import PACKAGED, REMOVE, parse
from didact.configs.jsonschema import recipe_schema
from didact.configs.resolve import described
from didact.plugins.manager import load

jsonschema = pytest.importorskip("jsonschema")
RECIPES = sorted(p for p in PACKAGED.glob("*.yaml") if not p.stem.endswith(".compare"))


def glow(logprobs, *, heat: float = 1.0):
    """-heat log p."""
    return -heat * logprobs


PLUGIN = SimpleNamespace(
    __name__="warm", register_losses=hookimpl(lambda register: register("glow", glow))
)


@pytest.fixture(scope="module")
def check():
    schema = recipe_schema(load([PLUGIN], installed=False))
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(json.loads(json.dumps(schema, allow_nan=False)))


def holds_remove(data):
    if isinstance(data, dict):
        return any(map(holds_remove, data.values()))
    return data is REMOVE or (isinstance(data, list) and any(map(holds_remove, data)))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_packaged_recipe_is_valid(check, path):
    data = parse(path).data
    if holds_remove(data):
        pytest.skip("`!remove` is a YAML tag, which JSON Schema does not know")
    check.validate(data)


GOOD = {
    "steps": 3,
    "task": "letters",
    "rewards": {"right": {"use": "letters_answer", "weight": {"linear": [0, 1], "over": 5}}},
    "experience": [
        {"rollout": {"use": "policy", "n": 4, "where": {"success_rate": 0}}},
        "score",
        {"advantage": "group_norm"},
        {"fill": {"groups": 2, "stages": [{"rollout": "policy"}, "score"]}},
    ],
    "phases": {"rl": {"rule": ["ppo_clip", {"use": "kl_k3", "weight": 0.1}]}},
}


def test_a_whole_recipe_is_valid(check):
    check.validate(GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 3},
        {"steps": "many"},
        {"steps": 0},
        {"task": "lettres"},
        {"task": {"use": "letters", "sizes": 3}},
        {"task": {"sizes": 3}},
        {"sampler": {"use": "ordered", "prompts": "all"}},
        {"sampler": {"use": "ordered", "prompts": 0}},
        {"optimizers": {"main": {"lr": -1}}},
        {"phases": {"rl": {"rule": {"use": "ppo_clip", "clip_low": -1}}}},
        {"experience": [{"rollout": {"use": "policy", "top_p": 0}}]},
        {"rewards": {"right": {"use": "letters_answer", "wieght": 1}}},
        {"rewards": {"right": {"use": "letters_answer", "weight": {"linaer": [0, 1]}}}},
        {"experience": ["scroe"]},
        {"experience": [{"rollout": {"use": "polic"}}]},
        {"experience": [{"rollout": {"use": "policy", "m": 4}}]},
        {"experience": [{"rollout": "policy", "score": {}}]},
        {"experience": {"rollout": "policy"}},
        {"experience": [{"rollout": {"use": "policy", "where": {"x": {"atleast": 1}}}}]},
        {"phases": {"rl": {"rule": "ppo_clop"}}},
        {"phases": {"rl": {"rule": {"use": "ppo_clip", "clip": 0.2}}}},
        {"phases": {"rl": {"rules": "ppo_clip"}}},
        {"phases": {"rl": {"rule": "ppo_clip", "average": "token"}}},
        {"phases": {"rl": {"rule": "ppo_clip", "pool": {"use": "queue", "size": 3}}}},
        {"phases": {"rl": {"rule": {"use": "sft", "times": "probabilty"}}}},
        {"phases": [{"name": "rl"}]},
        {"optimizers": {"main": {"learning_rate": 1}}},
        {"sampling": {"temperature": "hot"}},
        {"extends": 3},
    ],
    ids=str,
)
def test_a_typical_mistake_is_refused(check, change):
    assert not check.is_valid({**GOOD, **change})


def test_a_plug_in_s_part_completes_like_any_other(check):
    def with_rule(rule):
        return {**GOOD, "phases": {"rl": {"rule": rule}}}

    assert check.is_valid(with_rule({"use": "glow", "heat": 2.0}))
    assert check.is_valid(with_rule({"use": "warm/glow", "heat": 2.0}))
    assert not check.is_valid(with_rule({"use": "glow", "heet": 2.0}))
    assert not check.is_valid(with_rule({"use": "glow", "heat": "high"}))


def test_descriptions_are_the_parts_own(check):
    losses = check.schema["$defs"]["LossSpec"]["anyOf"]
    (found,) = [
        part
        for part in losses
        if "glow" in part.get("properties", {}).get("use", {}).get("enum", ())
    ]
    assert found["description"] == "-heat log p."


def test_a_description_of_a_part_shows_the_ranges_of_its_settings():
    assert "dual_clip: float > 1 | None  (default None)" in described("loss:ppo_clip")
    assert "n: int >= 1  (default 8)" in described("source:policy")
    assert described("didact/ppo_clip") == described("ppo_clip")
    assert "gamma: float >= 0 <= 1  (default 1.0)" in described("advantage:gae")
