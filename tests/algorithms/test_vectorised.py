"""What is computed for all rows at once is what its definition says, token by token."""

from itertools import product
from math import inf, nan

import torch

from didact.algorithms.credit import at_steps
from didact.algorithms.rules import Bound, Term
from didact.algorithms.token_advantages import discounted_returns, gae
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.where import Range

DRAW = torch.Generator().manual_seed(0)
MASK = torch.rand(6, 9, generator=DRAW) > 0.4
MASK[2] = False
REWARDS, VALUES = torch.randn(2, 6, 9, generator=DRAW, dtype=torch.float64)


def test_returns_and_gae_are_the_recursion_over_loss_tokens():
    gamma, lam = 0.9, 0.8
    returns = discounted_returns(REWARDS, MASK, gamma=gamma)
    advantages = gae(REWARDS, MASK, VALUES, gamma=gamma, lam=lam, whitened=False)["advantages"]
    for row in range(len(MASK)):
        later = ahead = running = 0.0
        for t in reversed(range(MASK.shape[1])):
            if not MASK[row, t]:
                assert returns[row, t] == advantages[row, t] == 0
                continue
            reward, value = float(REWARDS[row, t]), float(VALUES[row, t])
            later = reward + gamma * later
            running = reward + gamma * ahead - value + gamma * lam * running
            ahead = value
            assert float(returns[row, t]) == later
            assert float(advantages[row, t]) == running


def test_numbers_at_step_ends_are_those_of_the_row_from_the_left():
    found = at_steps(VALUES, MASK.double())
    for row, (values, ends) in enumerate(zip(VALUES, MASK, strict=True)):
        count = int(ends.sum())
        assert torch.equal(found[row, :count], values[ends])
        assert found[row, count:].isnan().all()


def test_a_term_for_a_range_of_tokens_is_for_those_that_are_in_it():
    values = [-inf, -1.0, -0.5, 0.1, 0.0, 0.5, 1.0, inf, nan]
    row = Trajectory(
        Prompt("p", torch.zeros(1, dtype=torch.int64), Problem("p", "?")),
        torch.zeros(len(values), dtype=torch.int64),
        torch.ones(len(values), dtype=torch.bool),
        "policy",
        columns={"score": torch.tensor(values)},
    )
    stored = row.columns["score"].tolist()
    for least, most, above, below in product((-inf, -0.5), (inf, 0.5), (-inf, -1.0), (inf, 1.0)):
        want = Range(at_least=least, at_most=most, above=above, below=below)
        term = Term("t", Bound(lambda logprobs: -logprobs), tokens={"score": want})
        assert term.mask(Batch((row,))).tolist() == [[value in want for value in stored]]
