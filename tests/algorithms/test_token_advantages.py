"""Identities between advantages of tokens, and what observations do to them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reward_table import steps, table

from didact.algorithms import kl_reward
from didact.algorithms import token_advantages as tok


@given(step=steps(), seed=st.integers(0, 99))
def test_gae_without_decay_is_the_monte_carlo_return_minus_the_value(step, seed):
    read = table(*step, seed=seed)
    rewards, mask, values = read["rewards"], read["mask"], read["values"]
    out = tok.gae(rewards, mask, values, whitened=False)
    expected = torch.where(mask, rewards[:, None] - values, 0.0)
    torch.testing.assert_close(out["advantages"], expected)
    torch.testing.assert_close(out["returns"], rewards[:, None] * mask)


def test_gae_without_lambda_is_the_one_step_error():
    read = table([1.0, 0.5], [0, 0])
    mask = torch.ones(2, 7, dtype=torch.bool)
    given_, values = tok.token_rewards(read["rewards"], mask), read["values"]
    ahead = torch.cat([values[:, 1:], torch.zeros(2, 1)], 1)
    out = tok.gae(read["rewards"], mask, values, gamma=0.9, lam=0.0, whitened=False)
    torch.testing.assert_close(out["advantages"], given_ + 0.9 * ahead - values)


def test_refts_worked_example():
    """kl = [.02, -.01, .03], V = [.3, .4, .6], beta .05, reward 1, lambda .95: figures of the
    released trainer (lqtrung1998/mwp_ReFT), worked by hand."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    kl = torch.tensor([[0.02, -0.01, 0.03]], dtype=torch.float64)
    reward = torch.tensor([1.0], dtype=torch.float64)
    spread = kl_reward.reward_minus_kl(reward, mask, kl, torch.zeros(1, 3), beta=0.05)
    rewards = spread["token_rewards"]
    torch.testing.assert_close(rewards[0].tolist(), [-0.001, 0.0005, 0.9985])
    values = torch.tensor([[0.3, 0.4, 0.6]], dtype=torch.float64)
    out = tok.gae(rewards, mask, values, lam=0.95, whitened=False)
    assert out["advantages"][0].tolist() == pytest.approx([0.649121, 0.579075, 0.3985], abs=1e-6)
    assert out["returns"][0].tolist() == pytest.approx([0.949121, 0.979075, 0.9985], abs=1e-6)


@given(seed=st.integers(0, 99))
def test_an_observation_of_any_length_is_no_time_at_all(seed):
    read = table([1.0, 0.3, 0.0], [0, 0, 1], seed=seed)
    rewards, mask, values = read["rewards"], read["mask"], read["values"]
    longer = torch.zeros(3, 2).bool()
    for name in ("advantages", "returns"):
        short = tok.gae(rewards, mask, values, gamma=0.9, lam=0.8)[name]
        wide = tok.gae(
            rewards,
            torch.cat([mask[:, :3], longer, mask[:, 3:]], 1),
            torch.cat([values[:, :3], longer.double() + 9, values[:, 3:]], 1),
            gamma=0.9,
            lam=0.8,
        )[name]
        torch.testing.assert_close(torch.cat([wide[:, :3], wide[:, 5:]], 1), short)


@given(step=steps(least=2), seed=st.integers(0, 99))
def test_whitened_tokens_have_mean_zero_and_unit_variance(step, seed):
    read = table(*step, seed=seed)
    mask = read["mask"]
    white = tok.whiten(read["values"], mask)[mask]
    if len(white) > 1:
        assert abs(float(white.mean())) < 1e-9
        assert float(white.var()) == pytest.approx(1.0, abs=1e-4)


@given(seed=st.integers(0, 99), tail=st.booleans())
def test_aligned_by_trained_tokens_observations_do_not_move_the_token_baseline(seed, tail):
    read = table([1.0, 0.3, 0.0, 2.0], [0, 0, 0, 1], seed=seed)
    names = ("rewards", "groups", "mask", "old_logprobs", "old_collision")
    mask = read["mask"]
    order = (~mask).long().argsort(dim=1, stable=True)
    tight = {k: read[k].gather(1, order) if read[k].dim() == 2 else read[k] for k in names}
    loose = tok.optimal_token_baseline(*(read[k] for k in names), align="trained", zero_tail=tail)[
        "advantages"
    ]
    dense = tok.optimal_token_baseline(*(tight[k] for k in names), zero_tail=tail)["advantages"]
    torch.testing.assert_close(loose.gather(1, order), dense)


def test_reinforce_plus_plus_passes_over_observations_without_discounting():
    mask = torch.tensor([[1, 0, 0, 1]]).bool()
    returns = tok.discounted_returns(torch.tensor([8.0]), mask, gamma=0.5)
    assert returns.tolist() == [[4.0, 0.0, 0.0, 8.0]]


def test_weighted_by_importance_the_token_baseline_counts_samples_by_the_square_of_their_weight():
    """Two responses of one token with rewards 1 and 0, equal energies, ratios 2 and 1: the baseline
    is (4 * 1 + 1 * 0) / 5."""
    rewards, groups = torch.tensor([1.0, 0.0]).double(), torch.zeros(2, dtype=torch.long)
    mask, old = torch.ones(2, 1).bool(), torch.full((2, 1), 0.25).double().log()
    energy = torch.full((2, 1), 0.3).double()
    sampler = torch.tensor([[0.125], [0.25]]).double().log()
    settings = {"zero_tail": False}
    found = tok.corrected_token_baseline(
        rewards, groups, mask, old, energy, sampler, cap=5.0, **settings
    )
    assert found["advantages"][:, 0].tolist() == pytest.approx([0.2, -0.8], abs=1e-6)
    equal = tok.corrected_token_baseline(rewards, groups, mask, old, energy, old, **settings)
    plain = tok.optimal_token_baseline(rewards, groups, mask, old, energy, **settings)
    assert torch.equal(equal["advantages"], plain["advantages"])
