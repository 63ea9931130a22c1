"""Estimators that read score columns agree with the pure functions, row by row."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import released
import torch
from released import t

from didact.algorithms import credit, kl_reward, redistribution, shaping

GOLDEN = Path(__file__).parents[1] / "golden" / "update_rules"
PAPERS = json.loads((GOLDEN / "paper_formula_vectors_shaping.json").read_text())["cases"]
SPA = json.loads((GOLDEN / "credit_and_shaping.json").read_text())["cases"]


close = partial(released.close, atol=1e-9)
ENDS = t([[0, 1, 0, 1, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
VALUES = t([[9, 0.2, 9, 0.7, 0.4], [0.6, 9, 9, 0.1, 9], [9, 9, 9, 9, 9]])
MASK = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 2 + [False] * 3])


def test_numbers_of_steps_are_gathered_and_put_back():
    steps = credit.at_steps(VALUES, ENDS)
    close(steps[0], [0.2, 0.7, 0.4])
    close(steps[1, :2], [0.6, 0.1])
    assert steps[1, 2].isnan() and steps[2].isnan().all()
    wanted = t([[0.2, 0.2, 0.7, 0.7, 0.4], [0.6, 0.1, 0.1, 0.1, 0], [0, 0, 0, 0, 0]])
    close(credit.along_steps(steps, ENDS, MASK), wanted)


def test_clip_and_delta_stand_at_the_steps_and_the_reward_at_the_end():
    """Row 0: p - 0.5 capped at 0 is (-.3, 0, -.1); differences of it (-.3 - 0, 0, 0)."""
    made = credit.clip_delta(t([1.0, 0.0, 2.0]), MASK, ENDS, VALUES, threshold=0.5, alpha=2.0)
    steps = shaping.clip_then_delta(t([0.2, 0.7, 0.4]), threshold=0.5)
    close(steps, [-0.3, 0.0, 0.0])
    wanted = t([[0, -0.6, 0, 0, 1.0], [0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0]])
    wanted[1, [0, 3]] = 2 * shaping.clip_then_delta(t([0.6, 0.1]), threshold=0.5)
    close(made["token_rewards"], wanted)


@pytest.mark.parametrize("case", [c for c in PAPERS if c["case"].startswith("pav")])
def test_process_advantages_are_those_of_the_formula(case):
    given, count = case["inputs"], len(case["inputs"]["policy_Q_after_step"])
    ends = torch.ones(1, count)
    made = credit.process_advantage(
        ends.bool(),
        ends,
        t([given["policy_Q_after_step"]]),
        t([given["prover_Q_after_step"]]),
        t([given["prover_V_start"]]),
        alpha=case["args"]["alpha"],
    )
    close(made["advantages"][0], case["outputs"]["effective"])


def test_rows_of_other_lengths_do_not_change_a_rows_credit():
    alone = credit.process_advantage(MASK[1:2], ENDS[1:2], VALUES[1:2], VALUES[1:2], t([0.3]))
    beside = credit.process_advantage(MASK, ENDS, VALUES, VALUES, t([0.5, 0.3, 0.9]))
    close(beside["advantages"][1:2], alone["advantages"])
    assert not beside["advantages"][2].any()


def test_the_best_of_k_is_a_better_prover():
    """q 0.5 after, 0.2 before: best of 2 has 0.75 and 0.36."""
    one = torch.ones(1, 1)
    made = credit.process_advantage(
        one.bool(), one, t([[0.0]]), t([[0.5]]), t([0.2]), alpha=1.0, best_of=2
    )
    close(made["advantages"], [[0.75 - 0.36]])


def test_more_steps_of_the_same_value_do_not_pay():
    """Q is what all later steps bring: a token counts by its own step, whatever follows."""
    mask = torch.ones(2, 3).bool()
    ends = t([[0, 0, 1], [1, 1, 1]])
    half = torch.full((2, 3), 0.5, dtype=torch.float64)
    made = credit.process_advantage(mask, ends, half, half, t([0.5, 0.5]))["advantages"]
    close(made, half)
    values = t([[0, 0, 0.8], [0.2, 0.6, 0.4]])
    made = credit.process_advantage(mask, ends, values, values, t([0.5, 0.5]), whitened=True)
    assert float(made["advantages"].mean()) == pytest.approx(0, abs=1e-12)
    assert float(made["advantages"].var()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("case", [c for c in SPA if c["case"].startswith("spa")])
def test_progress_is_placed_as_spa_places_it(case):
    """And with `reward_minus_kl` after it these are the rewards of the release, on loss tokens."""
    given = case["inputs"]
    mask = t(given["masks"]).bool()
    progress = torch.zeros(mask.shape, dtype=torch.float64)
    for at, (row, ends) in enumerate(
        zip(given["step_scores"], shaping.turn_ends(mask), strict=True)
    ):
        progress[at, ends.nonzero()[: len(row), 0]] = t(row)[: int(ends.sum())]
    made = credit.turn_progress(
        mask, progress, torch.zeros_like(progress), beta=0.0, countdown=True
    )
    width = max(map(len, given["step_scores"]))
    scores = t([[*row, *[0.0] * (width - len(row))] for row in given["step_scores"]])
    close(made["token_rewards"], shaping.turn_rewards(scores, mask, countdown=True))
    rewards = kl_reward.reward_minus_kl(
        made["token_rewards"],
        mask,
        t(given["logprobs"]),
        t(given["ref_logprobs"]),
        beta=case["args"]["kl_coef"],
    )["token_rewards"]
    released = torch.where(mask, t(case["outputs"]["rewards"]), 0.0)
    torch.testing.assert_close(rewards, released, rtol=0, atol=1e-7)


def test_turns_are_runs_of_loss_tokens():
    mask = torch.tensor([[True, True, False, True, False]])
    assert credit.turn_steps(mask)["step_end"].tolist() == [[0, 1, 0, 1, 0]]
    made = credit.turn_progress(mask, t([[9, 0.5, 9, 0.25, 9]]), t([[1, 1, 1, 0, 1]]))
    close(made["token_rewards"], [[0, 0.5 + 0.5, 0, 0.25, 0]])


def test_one_number_for_all_turns_counts_down_to_nothing_at_the_last():
    """The released script of SPA: three turns get twice, once and not at all the response's 0.5."""
    mask = torch.tensor([[True, False, True, True, False, True]])
    made = credit.turn_progress(mask, t([0.5]), t([1.0]), beta=0.0, countdown=True)
    close(made["token_rewards"], [[1.0, 0, 0, 0.5, 0, 0]])


@pytest.mark.parametrize("per_step", [True, False])
def test_the_decoders_loss_is_return_decomposition(per_step):
    torch.manual_seed(1)
    steps = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    lengths, returns = torch.tensor([4, 2, 3]), t([1.0, 0.0, 2.0])
    mask = torch.arange(4)[None] < lengths[:, None]
    ours = credit.return_decomposition(steps, mask.double(), returns, mask, per_step=per_step)
    mean = (ours.sum(1) / lengths).mean()  # average: sequences
    scale = lengths if per_step else torch.ones(3)
    inside = torch.where(mask, steps, 0.0).sum(1)
    close(mean, ((inside - returns) / scale).square().mean())
    if per_step:
        close(mean, redistribution.return_decomposition(steps, lengths, returns))
        wanted = torch.autograd.grad(
            redistribution.return_decomposition(steps, lengths, returns), steps
        )[0]
        close(torch.autograd.grad(mean, steps)[0], wanted)


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_loss_on_sampled_steps_is_randomised_decomposition(unbiased):
    torch.manual_seed(2)
    steps = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    lengths, returns = torch.tensor([6, 3, 4]), t([1.0, 0.0, 2.0])
    mask = torch.arange(6)[None] < lengths[:, None]
    drawn = credit.sampled_steps(mask.double(), t([0.1, 0.5, 0.9]), steps=3)["step_sampled"]
    assert (drawn * mask).sum(1).tolist() == [3, 3, 3]
    ours = credit.randomised_decomposition(
        steps, mask.double(), drawn, returns, mask, unbiased=unbiased
    )
    mean = (ours.sum(1) / lengths).mean()  # average: sequences
    chosen = drawn.nonzero()[:, 1].view(3, 3)
    theirs = redistribution.randomised_decomposition(
        steps, lengths, returns, chosen, unbiased=unbiased
    )
    close(mean, theirs)
    close(*(torch.autograd.grad(loss, steps)[0] for loss in (mean, theirs)))


def test_a_row_with_fewer_steps_than_are_drawn_has_all_of_them():
    one = credit.sampled_steps(ENDS, t([0.3, 0.3, 0.3]), steps=2)["step_sampled"]
    assert one.sum(1).tolist() == [2, 2, 0]
    assert ((one == 1) <= (ENDS == 1)).all()
    many = credit.sampled_steps(ENDS, t([0.3, 0.3, 0.3]), steps=9)["step_sampled"]
    close(many, ENDS)


@pytest.mark.parametrize("case", [c for c in PAPERS if c["case"].startswith("brme")])
def test_an_ensemble_with_spreads_is_brme(case):
    given, nominal = case["inputs"], case["args"]["lambda_nominal"]
    parts = torch.cat([t(given["head_mean"]), t(given["head_std"])]).T
    made = credit.robust_ensemble(parts, nominal=nominal, stds=True)
    close(made["reward"], case["outputs"]["reward"])
    close(made["reward_nominal"], case["outputs"]["nominal"])
    close(made["reward_robust"], case["outputs"]["worst"])


def test_an_ensemble_without_spreads_blends_its_mean_and_its_lowest():
    made = credit.robust_ensemble(t([[1.0, 0.0, 0.5]]), nominal=0.2)
    close(made["reward"], [0.2 * 0.5])
