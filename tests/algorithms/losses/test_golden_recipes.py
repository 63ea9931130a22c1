"""The packaged recipes, not only their parts, agree with the released losses: value and gradient.

The rule is the one that a run of the recipe would use, its average included.
"""

import pytest
import torch

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.plugins.manager import load

REGISTRY = load(installed=False)
NAMES = {
    "logprobs": ("log_prob", "logprob", "per_token_logps"),
    "old_logprobs": ("old_log_prob", "old_logprob", "old_per_token_logps"),
    "mask": ("response_mask", "action_mask", "mask", "eos_mask"),
    "advantages": ("advantages",),
    "success": ("correct_mask",),
    "success_rate": ("correct_rate",),
}
VALUE = ("loss", "pg_loss")
GRADIENT = ("grad_log_prob", "grad_logprob", "grad_logps")
TRINITY, VERL, TRL = "trinity_losses", "verl_policy_losses", "trl_grpo_losses"
NFT, REPOS = "nft_official", "other_repos_losses"
CASES = [
    ("rec_one_side", TRINITY, "rec/REC-OneSide-NoIS"),
    ("rec_one_side_is", TRINITY, "rec/REC-OneSide-IS"),
    ("rec_two_side_is", TRINITY, "rec/REC-TwoSide-IS"),
    ("rec_ring", TRINITY, "rec/REC-Ring-NoIS"),
    ("red_weight", TRINITY, "rec/RED-Weight"),
    ("red_drop", TRINITY, "rec/REINFORCE"),
    ("rep_asym_re", TRINITY, "rec/REP-AsymRE"),
    ("rep_opmd", TRINITY, "rec/REP-OPMD(k2)"),
    ("topr", TRINITY, "topr"),
    ("sppo", TRINITY, "sppo"),
    ("cispo", TRINITY, "cispo"),
    ("opmd", TRINITY, "opmd/token-mean"),
    ("sapo_detached", TRINITY, "sapo(log-prob form)"),
    ("gspo", VERL, "gspo/seq-mean-token-mean/tight"),
    ("sapo", VERL, "sapo/seq-mean-token-mean"),
    ("gmpo", VERL, "geo_mean/token-mean"),
    ("dro", VERL, "dro/token-mean"),
    ("gpg", VERL, "gpg/token-mean"),
    ("dppo_tv", VERL, "dppo_tv/token-mean"),
    ("dppo_kl", VERL, "dppo_kl/token-mean"),
    ("ppo", VERL, "vanilla/token-mean"),
    ("vespo", TRL, "vespo/token"),
    ("grpo_trl", TRL, "dapo/token"),
    ("luspo", TRL, "luspo/sequence"),
    ("kl_cov", REPOS, "kl_cov"),
    ("raft_plus_plus", REPOS, "raft++/loss"),
    ("nft", NFT, "nft/loss/off_policy/token/normalize1/eps1.0/neg1.0"),
    ("nft_grpo", NFT, "nft/loss/off_policy/token/normalize2/eps1.0/neg1.0"),
    ("nft_rft", NFT, "nft/loss/off_policy/token/normalize1/eps1.0/neg0.0"),
    ("nft_sequence", NFT, "nft/loss/off_policy/sequence/normalize0/eps1.0/neg1.0"),
]
OVERRIDES = {  # the figures were made with bounds other than the recipe's
    "ppo": ["phases.rl.rule.clip_high=0.28"],
    "grpo_trl": ["phases.rl.rule.clip_high=0.28"],
    "luspo": ["phases.rl.rule={use: gspo, clip_low: 0.05, clip_high: 0.06}"],
}
ARGUMENTS = {"kl_cov": {"k_percent": 0.2}}
ONLY = {"raft_plus_plus": "ppo_clip"}
"""Recipes with further terms, which the released function does not have."""


def rule_of(name):
    document = read(name, OVERRIDES.get(name, []))
    parts = assemble(check(document, REGISTRY), REGISTRY, document)
    return next(phase.rule for phase in parts.phases if phase.name == "rl")


def found(case, names):
    return next(case[name] for name in names if name in case)


def cases_of(compose, file, name, args):
    data = compose.golden(f"update_rules/{file}.json")

    def resolved(value):
        is_name = isinstance(value, str) and value.startswith("$")
        return data["shared"][value[1:]] if is_name else value

    for case in data["cases"]:
        if case["case"] == name and args.items() <= case["args"].items():
            yield {key: resolved(v) for key, v in {**case["inputs"], **case["outputs"]}.items()}


@pytest.mark.parametrize(("recipe", "file", "name"), CASES, ids=[case[0] for case in CASES])
def test_the_rule_of_a_recipe_has_the_released_value_and_gradient(compose, recipe, file, name):
    rule, count = rule_of(recipe), 0
    for case in cases_of(compose, file, name, ARGUMENTS.get(recipe, {})):
        given = {
            ours: found(case, theirs)
            for ours, theirs in NAMES.items()
            if theirs[0] in case or any(other in case for other in theirs)
        }
        mask, leaf = given.pop("mask"), torch.tensor(given.pop("logprobs"), dtype=torch.float64)
        batch = compose.batch(mask, {**given, "now_logprobs": leaf})
        leaf = leaf.requires_grad_(True)
        live = {"logprobs": leaf, "entropy": torch.zeros_like(leaf), "ref_logprobs": leaf.detach()}
        values = rule.over(batch, 0)(batch, live)
        loss = values[ONLY[recipe]] if recipe in ONLY else sum(values.values())
        times = unit(recipe, torch.tensor(mask))
        assert float(loss.detach()) * times == pytest.approx(found(case, VALUE), abs=1e-7, rel=0)
        (gradient,) = torch.autograd.grad(loss * times, leaf)
        wanted = torch.tensor(found(case, GRADIENT), dtype=torch.float64)
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-7)
        count += 1
    assert count


def test_clip_cov_draws_other_tokens_at_other_steps(compose):
    """All 12 have a covariance of 1.5; one does not learn."""
    rows = torch.tensor([[-0.1] * 6, [-2.1] * 6], dtype=torch.float64)
    columns = {"advantages": [1.5, -1.5], "old_logprobs": rows, "now_logprobs": rows}
    rule, batch, found = rule_of("clip_cov"), compose.batch(torch.ones(2, 6), columns), set()
    for step in range(6):
        leaf = rows.clone().requires_grad_(True)
        (loss,) = rule.over(batch, step)(batch, {"logprobs": leaf}).values()
        (gradient,) = torch.autograd.grad(loss, leaf)
        (place,) = (gradient == 0).nonzero().tolist()
        found.add(tuple(place))
    assert len(found) > 1


def unit(recipe, mask):
    """NFT sums where our recipes average: over tokens and by 1000, or over sequences."""
    if recipe == "nft_sequence":
        return len(mask)
    return float(mask.sum()) / 1000 if recipe.startswith("nft") else 1.0
