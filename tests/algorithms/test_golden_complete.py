"""Every stored case has a test that reads it, and every case that was published is stored."""

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
PUBLISHED = HERE.parents[1].parent / "shared" / "golden"

LIBRARIES = "test_advantages_golden_libraries.py"
REPOSITORIES = "test_advantages_golden_repositories.py"
SHAPING, FORMULAS = "test_shaping_golden.py", "test_shaping_golden_formulas.py"
LOSSES = "losses/test_golden_"
READERS = {
    "credit_and_shaping": {
        "verl/effective_rank": f"{SHAPING}::test_effective_rank_and_its_dynamics",
        "verl/advantage_shaping": f"{SHAPING}::test_the_bonus_is_limited_by_the_advantage",
        "verl/aux_reward": f"{SHAPING}::test_the_rank_bonus_follows_a_running_mean_of_steps",
        "spa/": f"{SHAPING}::test_spa_places_turn_scores_and_a_kl_penalty",
        "adalign/group": f"{SHAPING}::test_advantage_alignment_starts_from_leave_one_out_by_round",
        "adalign/credits": f"{SHAPING}::test_advantage_alignment_credits",
        "pf_ppo/weights": f"{SHAPING}::test_pf_ppo_weights_by_prompt",
        "pf_ppo/weighted": (
            f"{LOSSES}repositories.py::test_pf_ppo_weighs_the_clipped_loss_of_a_response"
        ),
        "lare/": f"{SHAPING}::test_lare_losses_and_gradients",
    },
    "nft_official": {
        "nft/loss": f"{LOSSES}nft.py::test_loss_agrees_in_value_and_gradient",
        "nft/advantage": f"{REPOSITORIES}::test_nft_reads_the_success_rate_of_the_group",
    },
    "other_repos_advantages": {
        "dars/": f"{SHAPING}::test_dars_and_gvm_and_ada",
        "gvm/": f"{SHAPING}::test_dars_and_gvm_and_ada",
        "reinforce_ada/down": f"{SHAPING}::test_dars_and_gvm_and_ada",
        "": f"{REPOSITORIES}::test_advantages_agree_with_the_methods_own_repositories",
    },
    "other_repos_losses": {"": f"{LOSSES}repositories.py::test_loss_agrees_in_value_and_gradient"},
    "paper_formula_vectors_losses": {
        "kimi/": f"{LOSSES}repositories.py::test_kimi_objective_agrees_with_the_papers_formula",
        "rec/": "losses/test_whole_rules.py::test_consistency_agrees_with_the_papers_formula",
    },
    "paper_formula_vectors_shaping": {
        "kimi/": f"{FORMULAS}::test_length_reward_of_the_paper",
        "reward/": f"{FORMULAS}::test_clip_and_delta_of_the_paper",
        "san/": f"{FORMULAS}::test_stratified_advantages_of_the_paper",
        "brme/": f"{FORMULAS}::test_robust_reward_of_the_paper",
        "pav/": f"{FORMULAS}::test_process_advantage_of_the_paper",
        "duration/": f"{FORMULAS}::test_duration_weights_of_the_paper",
        "per_step_dpo/": f"{FORMULAS}::test_first_pit_of_the_paper",
    },
    "rover_official": {
        "rover/update": f"{LOSSES}value_learning.py::test_rover_agrees_in_value_and_gradient",
        "rover/mean_log_softmax": (
            f"{LOSSES}value_learning.py::test_the_readout_of_rover_is_the_mean_log_probability"
        ),
        "rover/": f"{REPOSITORIES}::test_rover_rewards",
    },
    "trinity_advantages": {
        "dapo/": f"{SHAPING}::test_overlong_penalty",
        "": f"{LIBRARIES}::test_group_advantages_agree_with_trinity",
    },
    "trinity_losses": {"": f"{LOSSES}trinity.py::test_policy_loss_agrees_in_value_and_gradient"},
    "trl_grpo_losses": {
        "advantages/": f"{LIBRARIES}::test_several_rewards_are_added_and_normalised_as_in_trl",
        "": f"{LOSSES}trl.py::test_loss_agrees_in_value_and_gradient",
    },
    "verl_advantages": {
        "gdpo/": f"{LIBRARIES}::test_gdpo_agrees_with_verl",
        **{
            f"{name}/": f"{LIBRARIES}::test_token_advantages_and_returns_agree_with_verl"
            for name in (
                *("gae", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "remax"),
                *("optimal_token_baseline", "tir_optimal_token_baseline"),
            )
        },
        **{
            f"{name}/": f"{LIBRARIES}::test_group_advantages_agree_with_verl"
            for name in (
                *("grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized"),
                *("opo", "gpg"),
            )
        },
    },
    "verl_misc_losses": {
        "agg_loss": f"{LOSSES}rollout_correction.py::test_average_agrees_in_value_and_gradient",
        "kl_penalty": f"{LOSSES}rollout_correction.py::test_kl_kind_agrees_in_value_and_gradient",
        "entropy": f"{LOSSES}rollout_correction.py::test_entropy_agrees_in_value_and_gradient",
        "value_loss": f"{LOSSES}value_learning.py::test_value_loss_agrees_in_value_and_gradient",
        "tis": f"{LOSSES}rollout_correction.py::test_importance_weight_agrees",
        "rejection": f"{LOSSES}rollout_correction.py::test_rejection_mask_agrees",
    },
    "verl_misc_shaping": {
        "pf_ppo": f"{SHAPING}::test_pf_ppo_weights_over_the_batch",
        "masked_stats": f"{SHAPING}::test_whitening",
        "adaptive_kl": f"{SHAPING}::test_beta_follows_the_kl",
    },
    "verl_policy_losses": {"": f"{LOSSES}verl.py::test_policy_loss_agrees_in_value_and_gradient"},
}
"""By file and by how the name of a case begins: the test that runs it, value and gradient."""

UNREAD = {
    "note": "prose",
    "notes": "prose",
    "note_on_split": "prose",
    "provenance": "prose",
    "superrl_a_gate_note": "prose",
    "sasr_gate_memory_only": "the formula was recalled, not read; the method is not here",
}
"""What a file on hybrid methods holds that no test reads, and why."""


def cases(path):
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize(
    "path", sorted((GOLDEN / "update_rules").glob("*.json")), ids=lambda path: path.stem
)
def test_every_case_of_an_update_rule_is_read_by_a_test_that_exists(path):
    readers = READERS[path.stem]
    met = set()
    for case in cases(path):
        found = [prefix for prefix in readers if case["case"].startswith(prefix)]
        assert found, f"no test reads {case['case']}"
        met.add(max(found, key=len))
    assert met == set(readers), "readers of nothing"
    for reader in readers.values():
        file, _, test = reader.partition("::")
        assert f"def {test}(" in (HERE / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted((GOLDEN / "hybrid").glob("*.json")), ids=lambda path: path.stem
)
def test_every_part_of_a_file_on_hybrid_methods_is_named_in_a_test(path):
    folders = (HERE, HERE.parent / "feedback")
    text = "".join(
        file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("test_*.py")
    )
    for key in json.loads(path.read_text(encoding="utf-8")):
        assert f'"{key}"' in text or key in UNREAD, f"no test reads {key}"


def identity(case):
    return case["case"], case.get("seed"), json.dumps(case["args"], sort_keys=True)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published cases are not beside the clone")
def test_every_published_case_is_stored():
    ours = {
        identity(case) for path in (GOLDEN / "update_rules").glob("*.json") for case in cases(path)
    }
    published = {
        identity(case)
        for path in (PUBLISHED / "update_rules").glob("*.json")
        if path.name != "INDEX.json"
        for case in cases(path)
    }
    assert published <= ours
    for path in (PUBLISHED / "hybrid").glob("*.json"):
        assert (GOLDEN / "hybrid" / path.name).read_bytes() == path.read_bytes()
