"""Identities between advantages of responses, and single estimators at their edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reward_table import steps, table

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import groups as g
from didact.algorithms import kl_reward, shaping
from didact.core.bind import adds_of
from didact.core.protocols import Stateful


@given(step=steps(), scale=st.sampled_from(["group", "none"]))
def test_leave_one_out_is_the_group_mean_times_n_over_n_minus_one(step, scale):
    rewards, groups = torch.tensor(step[0], dtype=torch.float64), torch.tensor(step[1])
    size = g.group_size(groups).double()
    factor = torch.where(size > 1, size / (size - 1).clamp(min=1), 0.0)
    plain = adv.group_norm(rewards, groups, scale=scale)
    torch.testing.assert_close(adv.leave_one_out(rewards, groups, scale=scale), plain * factor)


@given(step=steps(least=2))
def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others(step):
    rewards, groups = step
    ours = adv.leave_one_out(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups))
    for at, (reward, group) in enumerate(zip(rewards, groups, strict=True)):
        others = [r for k, r in enumerate(rewards) if groups[k] == group and k != at]
        expected = reward - sum(others) / len(others) if others else 0.0
        assert float(ours[at]) == pytest.approx(expected, abs=1e-9)


@given(step=steps(least=2))
def test_lite_ppo_is_dr_grpo_over_the_std_of_the_batch(step):
    rewards, groups = torch.tensor(step[0], dtype=torch.float64), torch.tensor(step[1])
    plain = adv.group_norm(rewards, groups, scale="none")
    lite = adv.group_norm(rewards, groups, scale="batch")
    torch.testing.assert_close(lite, plain / (rewards.std() + 1e-6))


def test_split_norm_of_on_policy_rows_alone_is_group_norm():
    read = table([1.0, 0.0, 0.0, 2.0, 1.0], [0, 0, 0, 1, 1])
    every = torch.ones(5)
    split = adv.split_norm(read["rewards"], read["groups"], every)
    torch.testing.assert_close(split, adv.group_norm(read["rewards"], read["groups"]))


def test_stratified_ignores_a_shift_of_one_stratum():
    rewards = torch.tensor([1.0, 0.0, 3.0, 1.0, 2.0], dtype=torch.float64)
    strata, one = torch.tensor([0.0, 0, 1, 1, 1]), torch.zeros(5, dtype=torch.long)
    shifted = rewards + 10 * strata
    plain = variants.stratified(rewards, one, strata)
    torch.testing.assert_close(plain, variants.stratified(shifted, one, strata))
    assert not torch.allclose(plain, variants.stratified(shifted, one, strata, alpha=0.5))


def test_equal_strata_make_it_the_group_norm():
    read = table([1.0, 0.0, 0.0, 2.0, 1.0], [0, 0, 0, 1, 1])
    ours = variants.stratified(read["rewards"], read["groups"], torch.ones(5))
    torch.testing.assert_close(ours, adv.group_norm(read["rewards"], read["groups"]))


def test_red_drop_balances_successes_and_failures():
    rewards = torch.tensor([1.0] + [0.0] * 5, dtype=torch.float64)
    draws = torch.tensor([0.0, 0.9, 0.1, 0.2, 0.3, 0.4])
    out = variants.red_drop(rewards, torch.zeros(6, dtype=torch.long), draws)
    assert out["kept"].tolist() == [1, 1, 0, 0, 0, 0]
    assert out["advantages"].tolist() == [0.5, -0.5, 0, 0, 0, 0]


def test_population_std_of_two_outcomes_is_nfts_prompt_weight():
    """(c - p) / sqrt(p (1 - p)), the weight that NFT's `normalize` 2 stands for."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    ours = adv.group_norm(rewards, torch.zeros(4, dtype=torch.long), ddof=0, eps=0.0)
    torch.testing.assert_close(ours, (rewards - 0.25) / (0.25 * 0.75) ** 0.5)


def test_beta_rises_with_the_kl_and_survives_a_checkpoint():
    mask = torch.ones(4, 2, dtype=torch.bool)
    steer = kl_reward.AdaptiveKL(beta=0.1, target=0.5, horizon=10)
    assert isinstance(steer, Stateful) and adds_of(steer) == {"token_rewards"}
    ones = torch.ones(4, 2)
    out = steer(torch.zeros(4), mask, ones, torch.zeros(4, 2))
    torch.testing.assert_close(out["token_rewards"], -0.1 * ones)
    assert steer.beta == pytest.approx(0.1 * (1 + 0.2 * 4 / 10))
    again = kl_reward.AdaptiveKL()
    again.load_state_dict(steer.state_dict())
    assert again.beta == steer.beta


@given(step=steps())
def test_group_statistics_agree_with_a_loop(step):
    rewards, groups = torch.tensor(step[0], dtype=torch.float64), torch.tensor(step[1])
    for at, group in enumerate(step[1]):
        mine = rewards[groups == group]
        assert float(g.group_mean(rewards, groups)[at]) == pytest.approx(float(mine.mean()))
        assert g.group_max(rewards, groups)[at] == mine.max()
        assert g.group_min(rewards, groups)[at] == mine.min()
        assert g.group_size(groups)[at] == len(mine)
        std = float(mine.std()) if len(mine) > 1 else 1.0
        assert float(g.group_std(rewards, groups)[at]) == pytest.approx(std)
        below = int((mine < rewards[at]).sum())
        same_before = sum(step[0][k] == step[0][at] and step[1][k] == group for k in range(at))
        assert int(g.rank_in_group(rewards, groups)[at]) == below + same_before


def test_no_rows_give_no_advantages():
    empty, none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    assert adv.group_norm(empty, none).shape == (0,)
    assert adv.leave_one_out(empty, none).shape == (0,)
    assert g.rank_in_group(empty, none).shape == (0,)


def test_the_best_of_a_group_and_one_other_are_kept():
    rewards, groups = torch.tensor([0.0, 1.0, 1.0, 0.5, 2.0]), torch.tensor([0, 0, 0, 0, 1])
    draws = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.3])
    kept = shaping.policy_filter(rewards, groups, draws, rule="best")["filter_weight"]
    assert kept.tolist() == [0, 1, 0, 0, 1]  # the first of equals
    kept = shaping.policy_filter(rewards, groups, draws, rule="best_and_random")["filter_weight"]
    assert kept.tolist() == [0, 1, 0, 1, 1]  # 0.2 is the least draw of the others


def test_durations_weigh_tokens_and_nothing_when_no_time_was_taken():
    per_token, seconds = torch.tensor([[1.0, -1.0], [2.0, 0.0]]), torch.tensor([3.0, 1.0])
    ours = shaping.duration_weighted(per_token, seconds)
    assert ours.tolist() == [[1.5, -1.5], [1.0, 0.0]]
    assert (
        shaping.duration_weighted(per_token, torch.tensor([0.0, 0.0])).tolist()
        == per_token.tolist()
    )


def test_red_weight_may_centre_on_the_mean_that_its_weights_give():
    """Rewards 1 and 0: A = +-1/2, weights e^A, and their weighted mean of A is tanh(1/2) / 2."""
    rewards, groups = torch.tensor([1.0, 0.0]).double(), torch.zeros(2, dtype=torch.long)
    ours = variants.red_weight(rewards, groups, weighted_baseline=True)
    half, centre = 0.5, math.tanh(0.5) / 2
    wanted = [(half - centre) * math.exp(half), (-half - centre) * math.exp(-half)]
    assert ours.tolist() == pytest.approx(wanted, abs=1e-12)
    assert float(ours.sum()) == pytest.approx(0.0, abs=1e-12)
