"""How much each source of a mixed batch counts."""

import math

import pytest
import torch

from didact.algorithms.mixing import by_noise, by_success, shortfall
from didact.algorithms.rules import Bound, Sum, Term
from didact.algorithms.supervised import negative_log_likelihood
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory

# HPT's soft table of type 1 for supervision, by number of correct rows among eight; 0 counts as 1.
SUPERVISION = [1.0, 1.0, 0.5, 0.25, 0.125, 0.0, 0.0, 0.0, 0.0]


def test_a_row_weighs_what_the_table_says_for_its_groups_successes():
    rates = torch.arange(9, dtype=torch.float32) / 8
    assert by_success(rates, coefficients=SUPERVISION).tolist() == SUPERVISION


def test_a_rate_that_is_no_count_of_the_tables_group_is_an_error():
    with pytest.raises(ValueError, match=r"9 coefficients are for groups of 8, .* 0\.3333"):
        by_success(torch.tensor([1 / 3]), coefficients=SUPERVISION)
    with pytest.raises(ValueError, match=r"every count 0\.\.n, got 1"):
        by_success(torch.tensor([1.0]), coefficients=[1.0])


def test_in_a_rule_the_table_multiplies_each_rows_loss():
    rows = tuple(
        Trajectory(
            Prompt(str(correct), torch.tensor([1]), Problem(str(correct), "")),
            torch.ones(1, dtype=torch.int64),
            torch.ones(1, dtype=torch.bool),
            "demonstration",
            signals={"success_rate": correct / 8},
        )
        for correct in (2, 4, 8)
    )
    term = Term(
        "sft",
        Bound(negative_log_likelihood),
        times=[Bound(by_success, {"coefficients": SUPERVISION})],
        average="sequence_sum",
    )
    live = {"logprobs": torch.tensor([[-1.0], [-2.0], [-3.0]], requires_grad=True)}
    loss = Sum([term]).over(Batch(rows), 0)(Batch(rows), live)["sft"]
    assert float(loss.detach()) == pytest.approx((0.5 * 1 + 0.125 * 2 + 0.0 * 3) / 3)


def test_the_learned_noise_of_a_loss_settles_where_its_weight_is_half_its_inverse():
    """d/ds (exp(-2 s) L + s) = 0 at exp(-2 s) = 1 / (2 L)."""
    loss = torch.tensor(0.7, dtype=torch.float64)
    best = (0.5 * (2 * loss).log()).requires_grad_()
    (gradient,) = torch.autograd.grad(by_noise(loss, best), best)
    assert abs(float(gradient)) < 1e-12


def test_supervision_fades_as_the_mean_reward_approaches_the_target():
    means = torch.tensor([0.2, 0.6])
    assert shortfall(means, target=0.5).tolist() == [pytest.approx(0.3), 0.0]
    assert math.isclose(float(shortfall(means, target=0.7)[1]), 0.1, abs_tol=1e-7)
