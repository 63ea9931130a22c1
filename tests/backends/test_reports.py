"""What an update reports is a mean over the tokens that it is about, however they are cut."""

import pytest
import torch

from didact.core.backends.reports import Tally, metrics_of, of_tokens
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.world import Alone


@pytest.mark.parametrize("size", [1, 3, 14])
def test_drift_and_mismatch_are_means_over_the_rows_that_carry_the_other_column(batch, size):
    """Drift against old log-probabilities, mismatch of these, or of the live ones, to sampled."""
    rows = list(batch.rows)
    for at in range(0, 14, 2):
        rows[at] = rows[at].with_columns(old_logprobs=torch.full(rows[at].tokens.shape, -2.0))
    batch = type(batch)(tuple(rows))
    tally = Tally()
    for start in range(0, 14, size):
        part = batch.take(range(start, min(start + size, 14)))
        sums, peaks = of_tokens(part, {"logprobs": torch.full(part.mask.shape, -2.5)})
        tally.rows.append(part)
        tally.terms.append({"term": torch.zeros(())})
        tally.sums.append(sums)
        tally.peaks.append(peaks)
    found = metrics_of(tally, batch, 0, Alone())
    assert found["kl_old"] == pytest.approx(0.5)
    apart = [
        (-2.0 if "old_logprobs" in row.columns else -2.5) - row.columns["behavior_logprobs"]
        for row in rows
        if "behavior_logprobs" in row.columns
    ]
    loss = [row.trainable for row in rows if "behavior_logprobs" in row.columns]
    wanted = torch.cat(apart)[torch.cat(loss)].abs()
    assert found["mismatch/abs_mean"] == pytest.approx(float(wanted.mean()), rel=1e-6)
    assert found["mismatch/max"] == pytest.approx(float(wanted.max()), rel=1e-6)


def test_small_numbers_beside_a_large_one_are_not_lost():
    prompt = Prompt("p", torch.tensor([1]), Problem("p", "p"))
    tokens = torch.ones(4097, dtype=torch.int64)
    row = Trajectory(prompt, tokens, tokens.bool(), "policy")
    entropy = torch.full((1, 4097), 1e-4)
    entropy[0, 0] = 2.0**24
    sums, _ = of_tokens(Batch((row,)), {"entropy": entropy})
    assert sums["entropy"].item() - 2.0**24 == pytest.approx(0.4096, rel=1e-5)
