"""A weight that is learned, in a recipe: checked, resolved, trained, resumed."""

import json
import shutil

import pytest
import torch

from didact.algorithms.rules import Sum
from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.configs.resolve import as_yaml, resolved
from didact.core.errors import RecipeError
from didact.core.learned import Learned
from didact.plugins.manager import load

RULE = "phases.rl.rule.0.weight={}"


def parts(*overrides):
    registry = load(installed=False)
    document = read("superrl_learned", ["base=null", *overrides])
    recipe = check(document, registry)
    return recipe, assemble(recipe, registry, document)


def test_a_learned_weight_reaches_the_rule_and_survives_resolving(tmp_path):
    recipe, made = parts()
    (rule,) = (phase.rule for phase in made.phases)
    assert isinstance(rule, Sum) and dict(rule.learned) == {
        "rl_noise": Learned(learned="rl_noise", start=0.0, at_least=-2.0),
        "sft_noise": Learned(learned="sft_noise", start=1.0, at_least=-2.0),
    }
    file = tmp_path / "resolved.yaml"
    file.write_text(as_yaml(resolved(recipe)), encoding="utf-8")
    assert resolved(check(read(file), load(installed=False))) == resolved(recipe)


@pytest.mark.parametrize(
    "weight, said",
    [
        ("{learned: logprobs}", "'logprobs' cannot be learned: it is the name of a column"),
        ("{learned: advantages}", "'advantages' cannot be learned"),
        ("{learned: sft_noise}", "learns 'sft_noise' with other settings than another term"),
        ("{learned: s, at_least: 1.0}", "'start' is 0, not from 1 to inf"),
        ("{learned: s, strat: 1.0}", "strat"),
        ("{linear: [1, 0]}", "needs 'over'"),
    ],
)
def test_mistakes_in_a_learned_weight_are_named(weight, said):
    with pytest.raises(RecipeError, match=r"phases\.rl\.rule") as caught:
        parts(RULE.format(weight))
    assert said in str(caught.value)


def test_a_run_reports_its_scalars_and_resumes_them_bitwise(run):
    rewards = "rewards.correct={use: full_match, pattern: '.*=.*'}"
    args = ("superrl_learned", "steps=4", "checkpoint.every=2", "optimizers.main.lr=1e-3", rewards)
    whole, cut = run(*args, folder="whole"), run(*args, folder="cut")
    shutil.rmtree(cut / "final")
    run(*args, folder="cut", resume=True)
    first, second = (
        [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
        for one in (whole, cut)
    )
    values = [line["rl/learned/sft_noise"] for line in first]
    assert values == [line["rl/learned/sft_noise"] for line in second]
    assert [line["rl/loss"] for line in first] == [line["rl/loss"] for line in second]
    assert len({1.0, *values}) == 5 and values == sorted(values)
    state = torch.load(whole / "checkpoints/step-000002/rank-0.pt", weights_only=True)
    held = state["learners"]["policy"]["scalars"]
    assert held.keys() == {"rl_noise", "sft_noise"}
    assert float(held["sft_noise"]["value"]) == values[1]
