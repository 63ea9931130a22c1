"""Identities between advantages, and what they do with groups of one, flat groups and no tokens."""

import inspect
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import groups as g
from didact.algorithms import kl_reward, shaping
from didact.algorithms import token_advantages as tok
from didact.core.bind import adds_of, columns_of
from didact.core.protocols import Stateful

BOUND = {"opmd": {"temperature": 0.7}, "rank_penalised": {"penalty": 0.25}}
BOUND["reward_minus_kl"] = {"beta": 0.1}
BOUND["shape_overlong"] = {"max_tokens": 6, "cache": 3}

ESTIMATORS = [
    adv.group_norm,
    adv.split_norm,
    adv.leave_one_out,
    adv.remax,
    adv.opo,
    adv.gpg,
    adv.pass_at_k,
    adv.asym_re,
    adv.opmd,
    adv.raw_reward,
    adv.positive_reward,
    adv.mixed_reward,
    variants.red_drop,
    variants.red_weight,
    variants.rank_penalised,
    variants.stratified,
    variants.gream,
    variants.counted_norm,
    tok.reinforce_plus_plus,
    tok.reinforce_plus_plus_baseline,
    tok.gae,
    tok.remax_tokens,
    tok.gdpo,
    tok.optimal_token_baseline,
    tok.prefix_group_norm,
    kl_reward.reward_minus_kl,
    shaping.shape_overlong,
    shaping.shape_length,
    shaping.policy_filter,
]
EVERY = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__)
COLUMNS = ("values", "old_logprobs", "ref_logprobs", "behavior_logprobs", "prefix")


def named(estimate):
    return estimate if isinstance(estimate, dict) else {"advantages": estimate}


def table(rewards, groups, seed=0, width=7):
    """Everything an estimator may read, for rows with these rewards and groups."""
    noise = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=noise, dtype=torch.float64)

    n = len(rewards)
    mask = random(n, width) > 0.3
    read = {
        "rewards": torch.tensor(rewards, dtype=torch.float64),
        "groups": torch.tensor(groups),
        "mask": mask,
        "lengths": mask.sum(1),
        "success": (torch.tensor(rewards) > 0).double(),
        "on_policy": (random(n) > 0.4).double(),
        "draws": random(n),
        "baseline": random(n),
        "strata": (random(n) * 3).floor(),
        "prefix_id": (random(n) * 2).floor(),
        "positives": (random(n) * 4).floor(),
        "negatives": (random(n) * 4).floor(),
        "reward_parts": random(n, 2),
        "reward_weights": torch.tensor([1.0, 0.5], dtype=torch.float64),
        "old_collision": random(n, width),
    }
    read |= {name: -random(n, width) for name in COLUMNS}
    read["prefix"] = (read["prefix"] < -0.5).double()
    return read


def call(estimator, read):
    arguments = {name: read[name] for name in columns_of(estimator)}
    return named(estimator(**arguments, **BOUND.get(estimator.__name__, {})))


def permuted(read, order):
    return {k: v if k == "reward_weights" else v[order] for k, v in read.items()}


@st.composite
def steps(draw, least=1):
    groups = draw(st.lists(st.integers(0, 3), min_size=least, max_size=12))
    kinds = sorted(set(groups))
    numbers = st.sampled_from([0.0, 1.0, -1.0, 0.1, 2.5]) | st.floats(-5, 5, width=32)
    rewards = draw(st.lists(numbers, min_size=len(groups), max_size=len(groups)))
    return rewards, [kinds.index(x) for x in groups]


@EVERY
@given(step=steps(), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_the_result_is_finite_and_promised_whatever_the_groups(estimator, step, seed):
    read = table(*step, seed=seed)
    out = call(estimator, read)
    assert set(out) == adds_of(estimator)
    for value in out.values():
        assert value.isfinite().all()
        assert value.shape in (read["rewards"].shape, read["mask"].shape)
        assert value.dtype == torch.float64
        if value.dim() == 2:
            assert (value[~read["mask"]] == 0).all()


@EVERY
@given(step=steps(), seed=st.integers(0, 99), random=st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_row_order_and_interleaving_of_groups_do_not_matter(estimator, step, seed, random):
    read = table(*step, seed=seed)
    order = list(range(len(step[0])))
    random.shuffle(order)
    before, after = call(estimator, read), call(estimator, permuted(read, order))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value[order], rtol=1e-9, atol=1e-9)


@EVERY
def test_rows_without_a_single_loss_token_are_harmless(estimator):
    read = table([1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1])
    read["mask"] = torch.zeros_like(read["mask"])
    read["lengths"] = read["mask"].sum(1)
    for value in call(estimator, read).values():
        assert value.isfinite().all()


@EVERY
def test_settings_are_keyword_only_and_have_types(estimator):
    for parameter in inspect.signature(estimator).parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert parameter.annotation is not parameter.empty
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert parameter.default is parameter.empty


CENTRED = [adv.group_norm, adv.leave_one_out, adv.opo, adv.gpg, adv.pass_at_k, adv.opmd]


@pytest.mark.parametrize("estimator", CENTRED, ids=lambda e: e.__name__)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.7])
def test_a_flat_group_gets_exactly_nothing(estimator, reward):
    read = table([reward] * 3 + [1.0, 0.0], [0, 0, 0, 1, 1])
    assert call(estimator, read)["advantages"][:3].tolist() == [0.0, 0.0, 0.0]


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


@EVERY
def test_512_responses_of_1024_tokens_take_well_under_a_second(estimator):
    rewards = [float(at % 3 == 0) for at in range(512)]
    read = table(rewards, [at // 8 for at in range(512)], width=1024)
    began = time.perf_counter()
    call(estimator, read)
    assert time.perf_counter() - began < 2.0


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


def test_red_weight_may_centre_on_the_mean_that_its_weights_give():
    """Rewards 1 and 0: A = +-1/2, weights e^A, and their weighted mean of A is tanh(1/2) / 2."""
    rewards, groups = torch.tensor([1.0, 0.0]).double(), torch.zeros(2, dtype=torch.long)
    ours = variants.red_weight(rewards, groups, weighted_baseline=True)
    half, centre = 0.5, math.tanh(0.5) / 2
    wanted = [(half - centre) * math.exp(half), (-half - centre) * math.exp(-half)]
    assert ours.tolist() == pytest.approx(wanted, abs=1e-12)
    assert float(ours.sum()) == pytest.approx(0.0, abs=1e-12)
