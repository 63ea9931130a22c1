"""What every estimator of advantages promises, with flat groups and rows without tokens too."""

import inspect
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_table import steps, table

from didact.algorithms import advantage_variants as variants
from didact.algorithms import advantages as adv
from didact.algorithms import kl_reward, shaping
from didact.algorithms import token_advantages as tok
from didact.core.bind import adds_of, columns_of

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


def named(estimate):
    return estimate if isinstance(estimate, dict) else {"advantages": estimate}


def call(estimator, read):
    arguments = {name: read[name] for name in columns_of(estimator)}
    return named(estimator(**arguments, **BOUND.get(estimator.__name__, {})))


def permuted(read, order):
    return {k: v if k == "reward_weights" else v[order] for k, v in read.items()}


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


@EVERY
def test_512_responses_of_1024_tokens_take_well_under_a_second(estimator):
    rewards = [float(at % 3 == 0) for at in range(512)]
    read = table(rewards, [at // 8 for at in range(512)], width=1024)
    began = time.perf_counter()
    call(estimator, read)
    assert time.perf_counter() - began < 2.0
