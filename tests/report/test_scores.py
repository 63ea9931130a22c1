"""Scores of parts of the questions: levels, and bins that each seed measured for itself."""

from dataclasses import replace

import pytest

from didact.core.report import find_cells
from didact.core.report.comparison import compared
from didact.core.report.scores import part_scores
from didact.core.report.statistics import estimate


@pytest.fixture(scope="module")
def found(comparison):
    return compared(find_cells([comparison]))


def test_bins_that_seeds_share_are_parts_like_any_other(found):
    for score in found.parts["bin"]:
        columns = found.evidence.parts("bin")[score.part.removeprefix("bin=")]
        values = found.evidence.values(score.label, "avg@8")[:, columns]
        plain = estimate(values)
        assert score.own.mean == pytest.approx(plain.mean, abs=1e-12)
        assert score.own.low == pytest.approx(max(plain.low, 0), abs=1e-9)
        assert score.own.questions == len(columns)


def test_every_seed_goes_by_the_bins_of_its_own_base_model(found):
    own = {label: bins.copy() for label, bins in found.evidence.own_bins.items()}
    for bins in own.values():
        bins[0], bins[1] = "hard", "hard"
        bins[0, :30], bins[1, 50:] = "hardest", "hardest"
    scores = {
        (score.label, score.part): score
        for score in part_scores(replace(found.evidence, own_bins=own), "grpo")["bin"]
    }
    values = found.evidence.values("relift", "avg@8")
    inside = own["relift"] == "hardest"
    score = scores["relift", "bin=hardest"]
    assert score.own.mean == pytest.approx(values[inside].mean())
    assert score.own.questions == round(inside.sum() / 3)
    base = found.evidence.values("grpo", "avg@8")[inside].mean()
    assert score.against.estimate.mean == pytest.approx(values[inside].mean() - base)
    assert score.against.estimate.low < score.against.estimate.mean


def test_no_interval_reaches_further_than_a_share_can(made, tmp_path):
    kinds = {"a": made.Kind((0.1, 0.2, 0.1, 0.0)), "b": made.Kind((0.1, 0.2, 0.2, 0.5))}
    folder = made.make_comparison(tmp_path, kinds, (0, 1), steps=4, questions=8, every=4)
    scores = [score for part in compared(find_cells([folder])).parts.values() for score in part]
    against = [score.against.estimate for score in scores if score.against]
    assert min(found.low for found in against) == -1.0  # two seeds: t with a degree of freedom
    assert max(found.high for found in against) <= 1.0
    assert all(0 <= score.own.low <= score.own.high <= 1 for score in scores)
