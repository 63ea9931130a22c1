"""Scores of methods: means with intervals, differences to the baseline, corrected p values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from didact.core.evaluate import BINS
from didact.core.report.evidence import Evidence
from didact.core.report.statistics import Array, Difference, Estimate, difference, estimate, holm

LEVEL = 0.05


@dataclass(frozen=True)
class Score:
    """One number of one method, and how it compares.

    Attributes:
        section: "final" or "part" (accuracy of some questions).
        benchmark: name, or "all" questions.
        part: which questions, e.g. "level=2", "bin=hard", or "all".
        against: difference to the baseline; None for the baseline itself.
        p_holm: p corrected over all methods and benchmarks of the same metric.
    """

    section: str
    label: str
    benchmark: str
    part: str
    metric: str
    own: Estimate
    against: Difference | None = None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """In words, from the corrected p and the interval together."""
        if self.against is None:
            return "baseline"
        found = self.against.estimate
        if self.p_holm is None or math.isnan(found.low) or self.p_holm > LEVEL:
            return "no difference shown"
        if found.low > 0:
            return "better"
        return "worse" if found.high < 0 else "no difference shown"


def final_scores(evidence: Evidence, baseline: str) -> list[Score]:
    """Every metric of every method, on all questions and on each benchmark."""
    every = np.arange(len(evidence.questions))
    benchmarks = {"all": every, **evidence.benchmarks}
    found = [
        _score(evidence, "final", label, baseline, metric, kept, benchmark=name)
        for metric in evidence.metrics
        for name, columns in benchmarks.items()
        if len(kept := _known(evidence, metric, columns))
        for label in evidence.labels
    ]
    return _corrected(found)


def part_scores(evidence: Evidence, baseline: str) -> dict[str, list[Score]]:
    """The main metric by each metadata key and by base difficulty; no tests, only intervals."""
    found = {
        key: [
            _score(evidence, "part", label, baseline, evidence.main, kept, part=f"{key}={name}")
            for name, columns in evidence.parts(key).items()
            if len(kept := _known(evidence, evidence.main, columns))
            for label in evidence.labels
        ]
        for key in evidence.by
    }
    return found | ({"bin": list(_bin_scores(evidence, baseline))} if evidence.bins else {})


def _bin_scores(evidence: Evidence, baseline: str) -> Iterator[Score]:
    """By base difficulty, which every seed measured for its own base model: the ratio of sums over
    a bin's seeds and questions, with the interval of its linearisation."""
    metric = evidence.main
    known = evidence.known(metric)
    for name in BINS:
        inside = {label: (evidence.own_bins[label] == name) & known for label in evidence.labels}
        columns = np.flatnonzero(np.any([mask.any(axis=0) for mask in inside.values()], axis=0))
        parts = {
            label: _centred(evidence.values(label, metric)[:, columns], mask[:, columns])
            for label, mask in inside.items()
            if mask.any()
        }
        same = evidence.same(columns)
        for label, (mine, mean, count) in parts.items():
            own = _within(0.0, _moved(estimate(mine, same), mean, count))
            against = None
            if label != baseline and baseline in parts:
                theirs, other, _ = parts[baseline]
                paired = evidence.seeds[label] == evidence.seeds[baseline]
                against = difference(mine, theirs, paired=paired, test=False, same=same)
                moved = _moved(against.estimate, mean - other, count)
                against = replace(against, estimate=_within(-1.0, moved))
            yield Score("part", label, "all", f"bin={name}", metric, own, against)


def _centred(values: Array, inside: NDArray[np.bool_]) -> tuple[Array, float, int]:
    """Values inside less their mean and 0 outside, so scaled that the mean of all varies as the
    mean inside does; that mean; and the questions inside, on average over the seeds."""
    mean = float(values[inside].mean())
    scale = inside.size / inside.sum()
    return np.where(inside, values - mean, 0.0) * scale, mean, round(inside.sum() / len(inside))


def _moved(found: Estimate, by: float, questions: int) -> Estimate:
    """An estimate around 0, around `by`; without an interval if it is of one question."""
    few = math.nan if questions < 2 else 0.0
    low, high = found.low + by + few, found.high + by + few
    return replace(found, mean=found.mean + by, low=low, high=high, questions=questions)


def pass_scores(evidence: Evidence) -> list[Score]:
    """Unbiased pass@k of every method at every k, with intervals."""
    if evidence.samples < 2:
        return []
    every = np.arange(len(evidence.questions))
    return [
        _score(evidence, "pass", label, label, f"pass@{k}", kept)
        for label in evidence.labels
        for k in evidence.ks
        if len(kept := _known(evidence, f"pass@{k}", every))
    ]


def _known(evidence: Evidence, metric: str, columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those columns of which every run has the metric."""
    return columns[evidence.known(metric)[columns]]


def _score(
    evidence: Evidence,
    section: str,
    label: str,
    baseline: str,
    metric: str,
    columns: NDArray[np.int64],
    *,
    benchmark: str = "all",
    part: str = "all",
) -> Score:
    mine, same = evidence.values(label, metric)[:, columns], evidence.same(columns)
    against = None
    if label != baseline and baseline in evidence.labels:
        theirs = evidence.values(baseline, metric)[:, columns]
        paired = evidence.seeds[label] == evidence.seeds[baseline]
        tested = section == "final"
        against = difference(mine, theirs, paired=paired, test=tested, same=same)
        against = replace(against, estimate=_within(-1.0, against.estimate))
    own = _within(0.0, estimate(mine, same))
    return Score(section, label, benchmark, part, metric, own, against)


def _within(least: float, found: Estimate) -> Estimate:
    """The interval, ended where a share (0 and 1) or a difference of shares (-1 and 1) does."""
    return replace(found, low=max(found.low, least), high=min(found.high, 1.0))


def _corrected(scores: Sequence[Score]) -> list[Score]:
    """With Holm's correction over each metric's tests: all methods on all benchmarks."""
    families: dict[str, list[int]] = defaultdict(list)
    for at, score in enumerate(scores):
        if score.against is not None:
            families[score.metric].append(at)
    out = list(scores)
    for family in families.values():
        tests = [against.p for at in family if (against := scores[at].against) is not None]
        for at, p in zip(family, holm(tests), strict=True):
            out[at] = replace(scores[at], p_holm=p)
    return out


def in_words(scores: Iterable[Score], baseline: str, metric: str) -> list[str]:
    """One sentence a method: what was found on all questions, and how sure that is."""
    out = []
    for score in scores:
        if score.benchmark != "all" or score.metric != metric or score.against is None:
            continue
        found = score.against.estimate
        points = f"{100 * found.mean:+.1f} points"
        span = f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}"
        if math.isnan(found.low):
            span = "no interval from one question"
        said = f"{score.label} is {score.verdict} than {baseline} in {metric}"
        if score.verdict == "no difference shown":
            said = f"No difference between {score.label} and {baseline} is shown in {metric}"
        p = f"corrected p {shown_p(score.p_holm)}"
        out.append(f"{said}: {points} ({span}; {p}).")
    return out


def shown_p(p: float | None) -> str:
    """A p value as people write it."""
    if p is None:
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
