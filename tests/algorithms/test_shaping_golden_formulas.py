"""Shaping and process rewards agree with the papers' formulas, evaluated apart from ours."""

import torch
from released import close, over, t

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import shaping

PAPERS = "update_rules/paper_formula_vectors_shaping.json"  # the spec's own evaluation of papers


@over(PAPERS, "kimi/len")
def test_length_reward_of_the_paper(args, i, o):
    lengths = torch.tensor(i["length"])
    ours = shaping.length_reward(lengths, torch.zeros_like(lengths), t(i["correct"]))
    close(ours, o["len_reward"])


@over(PAPERS, "reward/clip_delta")
def test_clip_and_delta_of_the_paper(args, i, o):
    process, threshold = t(i["process_reward"]), args["eta"]
    close(shaping.clipped_steps(process, threshold=threshold), o["clip"])
    close(shaping.step_deltas(process), o["delta"])
    close(shaping.clip_then_delta(process, threshold=threshold), o["clip_then_delta"])


@over(PAPERS, "san")
def test_stratified_advantages_of_the_paper(args, i, o):
    rewards = t(i["reward"])
    one = torch.zeros(len(rewards), dtype=torch.long)
    ours = variants.stratified(rewards, one, t(i["stratum"]), alpha=args["alpha"])
    close(ours, o["advantage"])
    close(adv.group_norm(rewards, one), o["global_norm"])


@over(PAPERS, "brme")
def test_robust_reward_of_the_paper(args, i, o):
    means, stds = t(i["head_mean"]), t(i["head_std"])
    close(shaping.robust_reward(means, stds, nominal=1.0), o["nominal"])
    close(shaping.robust_reward(means, stds, nominal=0.0), o["worst"])
    close(shaping.robust_reward(means, stds, nominal=args["lambda_nominal"]), o["reward"])


@over(PAPERS, "pav")
def test_process_advantage_of_the_paper(args, i, o):
    start, after = t(i["prover_V_start"]), t(i["prover_Q_after_step"])
    close(shaping.step_advantages(after, start), o["prover_advantage"])
    policy = t(i["policy_Q_after_step"])
    ours = shaping.process_advantage_reward(policy, after, start, alpha=args["alpha"])
    close(ours, o["effective"])


@over(PAPERS, "duration")
def test_duration_weights_of_the_paper(args, i, o):
    close(shaping.duration_weights(t(i["duration"])), o["weight"])
    ours = shaping.duration_weighted(t(i["advantage"]), t(i["duration"]))
    close(ours, o["weighted_advantage"])


@over(PAPERS, "per_step")
def test_first_pit_of_the_paper(args, i, o):
    for q, pit, gains in zip(i["step_Q"], o["first_pit_index"], o["step_advantage"], strict=True):
        assert int(shaping.first_pit(t(q))) == pit
        ours = shaping.step_advantages(t(q), t(0.0))
        close(ours[1:], gains[1:])
