"""What nothing reads is neither loaded nor read out."""

import json

import pytest

from didact.configs import launch
from didact.configs.plan import plan
from didact.core.backends.torch_learner import TorchLearner

VARIED = "rewards.correct={use: full_match, pattern: '.*a.*'}"
"""A reward that a model without any training earns with some of its answers."""


@pytest.fixture
def seen(monkeypatch):
    """The names of the frozen readers of each run, and the columns of each call of `freeze`."""
    frozen, columns = [], []
    opening, reading = launch.open_recipe, TorchLearner.freeze

    def opened(*args):
        made = opening(*args)
        frozen.append(sorted(made.run.frozen))
        return made

    def freeze(self, rows, names):
        columns.append(sorted(names))
        return reading(self, rows, names)

    monkeypatch.setattr(launch, "open_recipe", opened)
    monkeypatch.setattr(TorchLearner, "freeze", freeze)
    return frozen, columns


def losses_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["rl/loss"] for line in lines]


@pytest.mark.parametrize(
    ("recipe", "frozen", "columns"),
    [("grpo", [], []), ("grpo_deepseek", ["ref"], ["ref_logprobs"])],
)
def test_a_model_is_loaded_and_read_only_if_a_rule_reads_it(run, seen, recipe, frozen, columns):
    losses = losses_of(run(recipe, "steps=2", VARIED))
    assert len(losses) == 2 and seen == ([frozen], [columns] * 2 if columns else [])


def test_old_columns_are_frozen_once_a_firing_and_only_if_it_takes_several_steps(run, seen):
    _, columns = seen
    assert len(losses_of(run("grpo", "steps=2", VARIED, folder="one"))) == 2 and columns == []
    assert len(losses_of(run("grpo", "steps=2", "phases.rl.epochs=2", VARIED))) == 2
    assert columns == [["old_logprobs"]] * 2


MODEL = "models.policy={tokenizer: characters, config: {model_type: qwen3, vocab_size: 200}}"


@pytest.mark.parametrize("read", [False, True])
def test_a_plan_counts_the_memory_of_a_model_only_if_something_reads_it(read):
    reader = ["evaluation.kl=true"] if read else ["evaluation=null"]
    told = list(plan("grpo", ["base=null", MODEL, *reader]))
    assert ("ref: not loaded, nothing reads ref_logprobs" in told) is not read
    assert any(line.startswith("ref: loads because of evaluation.kl") for line in told) is read
    memory = told[told.index("\n# memory of a process, GiB") :]
    assert any(line.startswith("policy: weights") for line in memory)
    assert any(line.startswith("ref: weights") for line in memory) is read
