"""Every packaged recipe: it checks, says where it comes from, fits on a screen, and trains."""

from __future__ import annotations

import math
import re

import pytest
import torch

from didact.configs.assemble import assemble
from didact.configs.document import locate, packaged, read
from didact.configs.engines import open_recipe
from didact.configs.load import check
from didact.core.annotate import Annotate
from didact.core.gather import Gather
from didact.core.loop import train
from didact.core.stages import Read, Rollout
from didact.plugins.manager import load

REGISTRY = load(installed=False)
PATTERN = '".*=.*"'
REWARD = f"{{use: full_match, pattern: {PATTERN}}}"
"""Solved is what has an equals sign: a fresh model writes one in about every tenth answer, and
every demonstration has some, so groups are mixed and some prompts stay unsolved."""

WORLDS = {"letters", "math", "gsm8k"}
"""Tasks and settings to put under a method; they do not train by themselves."""

TINY = [
    "base=null",
    "models.policy={tokenizer: characters, config: {model_type: qwen3, hidden_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, "
    "intermediate_size: 64, max_position_embeddings: 512, tie_word_embeddings: true}}",
    "steps=3",
    "evaluation=null",
    "sampler.prompts=8",
    "sampling.max_tokens=12",
    "rewards.correct.use=full_match",
    f"rewards.correct.pattern={PATTERN}",
]
REAL = ["task={use: letters}", "prompt.max_tokens=16", f"rewards={{correct: {REWARD}}}"]
"""For recipes that name a task of their own: the embedded one instead."""

SMALL = {
    "bapo": ["phases.rl.when.at_least=128", "phases.rl.draw=64"],
    "bread": [f"experience.3.rollout.reward={REWARD}"],
    "decoupled_ppo": ["phases.rl.when.at_least=128", "phases.rl.draw=64"],
    "kimi": ["experience.0.rollout.max_tokens=6", "experience.1.continue.segment=6"],
    "duration": [f"experience.0.rollout.environment.reward={REWARD}"],
    "letters_base": ["stop=null"],
    "m2po": ["phases.rl.when.at_least=128", "phases.rl.draw=64"],
    "offline_sl": ["phases.sft.when.first=1", "phases.sft.take.version.below=1"],
    "clip_delta": [f"experience.3.step_values.reward={REWARD}"],
    "pav": [f"experience.3.step_values.reward={REWARD}"],
    "per_step_dpo": [f"experience.4.step_values.reward={REWARD}"],
    "spa": [f"experience.0.rollout.environment.reward={REWARD}"],
    "reft": [
        "phases.sft.when.last=0",
        "phases.rl.when.first=1",
        "phases.rl.take.version.at_least=1",
    ],
    "relift": ["phases.sft.when.at_least=2", "phases.sft.draw=2"],
    "relift_paper": ["phases.sft.when.at_least=2", "phases.sft.draw=2"],
    "relift_released": ["phases.sft.when.at_least=2", "phases.sft.draw=2"],
    "spa_released": [f"experience.0.rollout.environment.reward={REWARD}"],
    "san": [f"experience.0.rollout.environment.reward={REWARD}"],
    "sft_rl": [
        "phases.sft.when.last=0",
        "phases.rl.when.first=1",
        "phases.rl.take.version.at_least=1",
    ],
}
"""What a recipe that waits for rows or steps needs, to have done everything within three steps."""


def overrides(name: str) -> list[str]:
    own = read(name).data
    real = own["task"] if isinstance(own["task"], str) else own["task"]["use"]
    return [*TINY, *(REAL if real != "letters" else []), *SMALL.get(name, [])]


@pytest.mark.parametrize("name", packaged())
def test_a_recipe_says_where_it_comes_from(name):
    about = read(name).data.get("about", "")
    paper = re.search(r"arXiv:\d{4}\.\d{5}|[A-Z][\w. ]+ et al\. \d{4}|[A-Z]\w+ \d{4},", about)
    code = re.search(r"[\w-]+/[\w.-]+@[0-9a-f]{7,}", about)
    composed = re.search(r"composition|embedded|supervised", about, re.IGNORECASE)
    assert paper or code or composed
    assert not re.search(r"\bspec\b|\w\.md\b", about), "refers to what a reader does not have"


@pytest.mark.parametrize("name", packaged())
def test_a_recipe_fits_on_a_screen(name):
    lines = locate(name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 106


@pytest.mark.parametrize("name", [name for name in packaged() if name not in WORLDS])
def test_a_recipe_trains_three_steps(name):
    torch.set_num_threads(1)
    document = read(name, overrides(name))
    recipe = check(document, REGISTRY)
    opened = open_recipe(
        recipe, assemble(recipe, REGISTRY, document), REGISTRY, recipe.models["policy"]
    )
    before = {
        learner: {key: value.clone() for key, value in opened.run.learners[learner].weights()}
        for learner in opened.run.learners
    }
    steps = []
    for _ in train(Gather(opened.parts.experience), opened.parts.phases, opened.run, 3):
        steps.append(dict(opened.run.metrics))
        odd = {key: value for key, value in steps[-1].items() if not math.isfinite(value)}
        assert not odd
    for phase in opened.parts.phases:
        norms = [step.get(f"{phase.name}/grad_norm", 0.0) for step in steps]
        assert max(norms) > 0, f"phase '{phase.name}' never had a gradient"
        for term in getattr(phase.rule, "terms", ()):
            assert any(f"{phase.name}/{term.label}" in step for step in steps), term.label
    for name_of, learner in opened.run.learners.items():
        after = dict(learner.weights())
        assert all(bool(value.isfinite().all()) for value in after.values())
        assert any(not torch.equal(before[name_of][key], value) for key, value in after.items())


def sources(stages):
    inner = [s for stage in stages for s in getattr(stage, "stages", [stage])]
    return [stage.source for stage in inner if isinstance(stage, Rollout)]


@pytest.mark.parametrize("name", ["duration", "san", "spa", "spa_released"])
def test_an_episode_has_room_for_all_of_its_turns(name):
    document = read(name)
    recipe = check(document, REGISTRY)
    stages = [s for _, s in assemble(recipe, REGISTRY, document).experience.stages]
    (source,) = sources(stages)
    said, turns = source.environment.message, source.environment.turns
    needed = turns * recipe.sampling.max_tokens + (turns - 1) * len(said)
    assert needed <= (source.max_tokens or recipe.sampling.max_tokens)


@pytest.mark.parametrize("name", [name for name in packaged() if name not in WORLDS])
def test_nothing_that_a_recipe_computes_stays_unread(name):
    document = read(name, overrides(name))
    parts = assemble(check(document, REGISTRY), REGISTRY, document)
    stages = [stage for _, stage in parts.experience.stages]
    stages = [s for stage in stages for s in getattr(stage, "stages", [stage])]
    last = frozenset().union(*(phase.rule.needs | phase.take.needs for phase in parts.phases))
    for at, stage in enumerate(stages):
        later = last.union(*(other.needs for other in stages[at + 1 :]))
        if isinstance(stage, Annotate):
            assert stage.adds & later, f"nobody reads {sorted(stage.adds)}"
        elif isinstance(stage, Read):
            assert stage.adds <= later, f"nobody reads {sorted(stage.adds - later)}"
