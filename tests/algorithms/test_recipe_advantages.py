"""The advantages that packaged recipes estimate, their settings included, are the released ones."""

import json
from pathlib import Path

import pytest
import torch
from released import t

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.core.annotate import Annotate
from didact.core.bind import columns_of
from didact.plugins.manager import load

GOLDEN = Path(__file__).parents[1] / "golden" / "update_rules"
REGISTRY = load(installed=False)
VERL, TRINITY = "verl_advantages.json", "trinity_advantages.json"
REPOS = "other_repos_advantages.json"
PASS_AT_K = {"gamma": 1.0, "norm_adv_by_std_in_grpo": True}
CASES = [
    ("grpo_deepseek", VERL, "grpo/outcome", {"norm_adv_by_std_in_grpo": True}),
    ("dr_grpo", VERL, "grpo/outcome", {"norm_adv_by_std_in_grpo": False}),
    ("rloo", VERL, "rloo_vectorized/outcome", {}),
    ("opo", VERL, "opo/outcome", {}),
    ("gpg", VERL, "gpg/outcome", {}),
    ("pass_at_k", VERL, "grpo_passk/outcome", {"config": PASS_AT_K}),
    ("reinforce_plus_plus_baseline", VERL, "reinforce_plus_plus_baseline/outcome", {}),
    ("optimal_token_baseline", VERL, "optimal_token_baseline/outcome", {"handle_zero_tail": True}),
    ("lite_ppo", TRINITY, "grpo/batch_std(LitePPO)", {"std_cal_level": "batch"}),
    ("asym_re", TRINITY, "asymre", {"baseline_shift": -0.1}),
    ("opmd", TRINITY, "opmd/logavgexp", {"tau": 0.5}),
    ("reinforce", TRINITY, "reinforce", {}),
    ("rec_one_side", TRINITY, "rec", {"std_normalize": False}),
    ("raft_plus_plus", REPOS, "raft/advantage", {}),
    ("reinforce_rej", REPOS, "reinforce_rej/advantage", {}),
    ("gream", REPOS, "gream/bonus_calibrated_advantage", {"K": 4, "norm_adv_by_std_in_grpo": True}),
]


OVERRIDES = {"opmd": ["experience.2.advantage.temperature=0.5"]}
"""The figures were made with another temperature than the recipe's 1."""


def estimator_of(name):
    document = read(name, OVERRIDES.get(name, []))
    parts = assemble(check(document, REGISTRY), REGISTRY, document)
    return [s for _, s in parts.experience.stages if isinstance(s, Annotate)][-1].estimator


def cases_of(file, name, args):
    content = json.loads((GOLDEN / file).read_text())

    def value(x):
        if isinstance(x, str) and x.startswith("$"):
            bundle, key = x[1:].split(".")
            return content["bundles"][bundle][key]
        return x

    for case in content["cases"]:
        same = case["args"] == args if not args else args.items() <= case["args"].items()
        if case["case"] == name and same:
            yield {k: value(v) for k, v in {**case["inputs"], **case["outputs"]}.items()}


def inputs(case):
    """What estimators read, by the names they know it under."""
    if "reward" in case:
        rewards, groups = t(case["reward"]), torch.tensor(case["group"])
        return {"rewards": rewards, "groups": groups}
    mask = t(case["response_mask"]).bool()
    rewards = t(case["token_level_rewards"]).sum(1)
    given = {"rewards": rewards, "mask": mask, "lengths": mask.sum(1)}
    for ours, theirs in (("old_logprobs", "old_log_probs"), ("old_collision", "sum_pi_squared")):
        if theirs in case:
            given[ours] = t(case[theirs])
    if "index" in case:
        given["groups"] = torch.tensor(case["index"])
    return given


@pytest.mark.parametrize(("recipe", "file", "name", "args"), CASES, ids=[c[0] for c in CASES])
def test_a_recipe_estimates_the_released_advantages(recipe, file, name, args):
    estimator, count = estimator_of(recipe), 0
    for case in cases_of(file, name, args):
        given = inputs(case)
        ours = estimator(**{column: given[column] for column in columns_of(estimator)})
        ours = ours if isinstance(ours, torch.Tensor) else ours["advantages"]
        wanted = t(case["scalar_advantage"] if "reward" in case else case["advantages"])
        if "mask" in given:
            mask = given["mask"]
            ours, wanted = (
                torch.where(mask, x if x.dim() == 2 else x[:, None], 0.0) for x in (ours, wanted)
            )
        # Trinity and verl's vectorised forms work in float32
        torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-6)
        count += 1
    assert count
