"""Statistics of comparisons: intervals over questions and seeds, sign-flip test, Holm, pass@k.

Everything starts from values [S, Q]: seeds in rows, questions in columns. Questions and seeds are
what is resampled; single answers never are, since answers to one question are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from didact.core.evaluate import pass_at_k

Array = NDArray[np.float64]
Same = NDArray[np.int64]

DRAWS = 2000  # of the bootstrap: bounds move by about 2 % of their width between random seeds
FLIPS = 9999  # of the sign-flip test: the smallest p is 1e-4
EXACT = 13  # up to so many differing questions all sign patterns are enumerated (8,192)


@dataclass(frozen=True)
class Estimate:
    """A mean with a 95 % interval.

    Attributes:
        low, high: bounds; nan with fewer than two questions.
        error: standard error that the interval stands for.
        freedom: degrees of freedom of that standard error (Satterthwaite).
        seeds: fewest runs behind a side; with 1 the interval is over questions only, and how much
            another seed would change the mean is unknown.
    """

    mean: float
    low: float
    high: float
    error: float
    freedom: float
    seeds: int
    questions: int

    @property
    def seed_variance_known(self) -> bool:
        return self.seeds > 1


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, on the same questions.

    Attributes:
        paired: seeds are the same on both sides and were compared one with one.
        p_questions: sign-flip test over questions: would these very models differ on others?
            nan if no test was asked for.
        p_seeds: t test with the variance of questions and seeds; None with one seed.
        p: the larger of the two, so that a difference has to outlast both.
    """

    estimate: Estimate
    paired: bool
    p_questions: float
    p_seeds: float | None

    @property
    def p(self) -> float:
        return max(self.p_questions, self.p_seeds or 0.0)


def estimate(values: Array, same: Same | None = None) -> Estimate:
    """Mean over seeds and questions of values [S, Q], with its interval.

    Args:
        same: a number for each column [Q], alike for copies of one question: they are resampled
            together, with the weight of all.
    """
    return replace(_interval([_united(values, same)]), questions=values.shape[1])


def difference(
    method: Array,
    baseline: Array,
    *,
    paired: bool = True,
    test: bool = True,
    same: Same | None = None,
) -> Difference:
    """Method minus baseline on the same questions: [S, Q] and [T, Q].

    Args:
        paired: row i of both is the same seed (S == T); otherwise seeds are resampled apart.
        test: also compute p values.
        same: as in `estimate`; the signs of copies are flipped together.
    """
    sides = [method - baseline] if paired else [method, -baseline]
    by_question = np.sum([side.mean(axis=0) for side in sides], axis=0)
    if same is not None:
        by_question = np.bincount(same, by_question)
    found = _interval([_united(side, same) for side in sides])
    found = replace(found, questions=method.shape[1])
    return Difference(
        estimate=found,
        paired=paired,
        p_questions=sign_flip(by_question) if test else math.nan,
        p_seeds=_t_test(found) if test and found.seed_variance_known else None,
    )


def _united(values: Array, same: Same | None) -> Array:
    """A column for each question, of which there may be copies: with the mean of all values, and
    as far from it as the copies together move it."""
    if same is None or len(np.unique(same)) == values.shape[1]:
        return values
    mean = values.mean()
    sums = np.array([np.bincount(same, row) for row in values - mean])
    return np.asarray(mean + sums * sums.shape[1] / values.shape[1])


def _interval(sides: Sequence[Array]) -> Estimate:
    """Interval of a sum of means over crossed seeds and questions, by bootstrap.

    Question means and seed means are resampled with replacement and added. Each part is rescaled
    to the unbiased variance (Rao & Wu 1988, sqrt(n/(n-1))), the noise of single answers, which
    both parts contain, is taken out of the seeds' part (two-way analysis of variance), and
    the distances to the mean are stretched by t/z at Satterthwaite's degrees of freedom: three
    seeds are few, and a plain percentile interval would cover too little.
    """
    questions = sides[0].shape[1]
    seeds = min(len(side) for side in sides)
    by_question: Array = np.sum([side.mean(axis=0) for side in sides], axis=0)
    mean = float(by_question.mean())
    if questions < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, math.nan, seeds, questions)
    of_questions = float(by_question.var(ddof=1)) / questions
    of_seeds, of_noise, few = _seed_variances(sides)
    excess = of_seeds - of_noise if of_seeds > of_noise * (1 + 1e-9) else 0.0  # not by rounding
    variance = of_questions + excess
    bottom = of_questions**2 / (questions - 1)
    if excess:
        bottom += few + of_noise**2 / (questions - 1)
    freedom = variance**2 / bottom if bottom else math.inf
    draws = _question_weights(questions) @ (by_question - mean)
    draws *= math.sqrt(questions / (questions - 1))
    if excess:
        draws += _seed_draws(sides) * math.sqrt(excess / of_seeds)
    low, high = np.quantile(draws, [0.025, 0.975]) * (t_quantile(freedom) / t_quantile(math.inf))
    return Estimate(
        mean, mean + float(low), mean + float(high), math.sqrt(variance), freedom, seeds, questions
    )


def _seed_variances(sides: Sequence[Array]) -> tuple[float, float, float]:
    """Variance of the mean from seeds, the noise within it, and the sum of var^2 / freedom."""
    of_seeds = of_noise = few = 0.0
    for side in sides:
        count, questions = side.shape
        if count < 2:
            continue
        rows = side.mean(axis=1)
        rest = side - rows[:, None] - side.mean(axis=0) + side.mean()
        between = float(rows.var(ddof=1)) / count
        within = float((rest**2).sum()) / ((count - 1) * (questions - 1)) / (count * questions)
        of_seeds += between
        of_noise += within
        few += between**2 / (count - 1)
    return of_seeds, of_noise, few


def _seed_draws(sides: Sequence[Array]) -> Array:
    """Bootstrap deviations [DRAWS] of the mean over seeds, at their unbiased variance."""
    random = np.random.default_rng(1)
    total = np.zeros(DRAWS)
    for side in sides:
        count = len(side)
        if count > 1:
            rows = side.mean(axis=1) - side.mean()
            drawn = rows[random.integers(0, count, (DRAWS, count))].mean(axis=1)
            total += drawn * math.sqrt(count / (count - 1))
    return total


@lru_cache(maxsize=16)
def _question_weights(count: int) -> NDArray[np.float32]:
    """Share [DRAWS, count] of each question in each resample; rows sum to 1."""
    random = np.random.default_rng(count)
    drawn = random.integers(0, count, (DRAWS, count)) + count * np.arange(DRAWS)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=DRAWS * count).reshape(DRAWS, count)
    return (counts / count).astype(np.float32)


def sign_flip(differences: Array, *, flips: int = FLIPS) -> float:
    """Two-sided p of "the methods are exchangeable on every question", by flipping signs.

    Args:
        differences: per question, the mean over seeds, [Q]. Questions without a difference keep
            the statistic as it is and are left out; up to 13 others are enumerated exactly.
    """
    kept = differences[np.abs(differences) > 1e-12]
    if not len(kept):
        return 1.0
    reached = abs(float(kept.sum())) - 1e-9
    if len(kept) <= EXACT:
        patterns = (np.arange(2 ** len(kept))[:, None] >> np.arange(len(kept))) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ kept) >= reached))
    random = np.random.default_rng(len(kept))
    hits, chunk = 0, max(1, 2_000_000 // len(kept))
    for start in range(0, flips, chunk):
        rows = min(chunk, flips - start)
        words = random.integers(0, 256, (rows, (len(kept) + 7) // 8), dtype=np.uint8)
        signs = np.unpackbits(words, axis=1, count=len(kept)).astype(np.float64)
        hits += int((np.abs(2 * (signs @ kept) - kept.sum()) >= reached).sum())
    return (1 + hits) / (1 + flips)


def _t_test(found: Estimate) -> float:
    if found.mean == 0 or not math.isfinite(found.error):
        return 1.0
    if found.error == 0:
        return 0.0
    return t_tail(abs(found.mean) / found.error, found.freedom)


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p values of a family of tests (Holm 1979), in the order given."""
    adjusted = [0.0] * len(values)
    running = 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        running = max(running, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = running
    return adjusted


def pass_curve(correct: NDArray[np.int64], answers: NDArray[np.int64], k: int) -> Array:
    """Unbiased pass@k of every question, from how many of its answers were right.

    Args:
        correct, answers: counts of the same shape; every question needs at least k answers.
    """
    out = np.empty(correct.shape)
    for n in np.unique(answers):
        table = np.array([pass_at_k(int(n), right, k) for right in range(int(n) + 1)])
        out[answers == n] = table[correct[answers == n]]
    return out


@lru_cache(maxsize=1)
def _nodes() -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(400)


def t_tail(t: float, freedom: float) -> float:
    """P(|T| > t) of Student's t; with t = sqrt(freedom) tan(angle) an integral of a cosine."""
    if freedom > 1e5:
        return math.erfc(t / math.sqrt(2))
    nodes, weights = _nodes()

    def integral(start: float) -> float:
        half = (math.pi / 2 - start) / 2
        powers = np.cos(start + half * (nodes + 1)) ** (freedom - 1)
        return half * float(weights @ powers)

    return min(1.0, integral(math.atan(t / math.sqrt(freedom))) / integral(0.0))


@lru_cache(maxsize=4096)
def t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t; 1.96 at infinitely many degrees of freedom."""
    low, high = 1.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 0.05 else (low, middle)
    return (low + high) / 2
