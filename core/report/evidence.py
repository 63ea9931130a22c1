"""What all finished runs answered, aligned: the same questions in columns, seeds in rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from didact.core.errors import DataError
from didact.core.evaluate import BINS
from didact.core.report.alike import keyed, same_base, same_questions
from didact.core.report.read import Row, RunRecord
from didact.core.report.statistics import Array, pass_curve

BENCHMARK_KEYS = ("benchmark", "task", "source")
MOST_PARTS = 12


@dataclass(frozen=True)
class Evidence:
    """Aligned final evaluations.

    Attributes:
        questions: keys of the questions, in the order of every array's columns.
        rows: of one run, for texts and metadata.
        greedy: by method, success of the greedy answer [S, Q], nan where its reward failed; empty
            if some run has none.
        correct, answers: by method, counts of sampled answers [S, Q], without those whose rewards
            failed; empty if some run has none.
        seeds: by method, the seeds in order of the arrays' rows.
        bins: base difficulty of every question as most runs measured it, or None.
        own_bins: by method, base difficulty as each seed's run measured it [S, Q].
        notices: what did not fit together but did not matter enough to refuse.
    """

    questions: tuple[str, ...]
    rows: tuple[Row, ...]
    greedy: Mapping[str, Array]
    correct: Mapping[str, NDArray[np.int64]]
    answers: Mapping[str, NDArray[np.int64]]
    seeds: Mapping[str, tuple[str, ...]]
    bins: tuple[str, ...] | None
    own_bins: Mapping[str, NDArray[np.str_]]
    by: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.seeds)

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """A number for each question [Q], alike for those of one text."""
        places: dict[str, int] = {}
        texts = (str(row["question"]) for row in self.rows)
        return np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)

    def same(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of some questions, without gaps: what the statistics take."""
        return np.unique(self.copies[columns], return_inverse=True)[1]

    @cached_property
    def samples(self) -> int:
        """Sampled answers that every run asked for; a question has fewer if rewards failed."""
        asked = (int(counts.max(axis=1).min()) for counts in self.answers.values())
        return min(asked, default=0)

    @cached_property
    def ks(self) -> tuple[int, ...]:
        """Powers of two up to the number of samples, and that number."""
        return tuple(sorted({2**i for i in range(12) if 2**i <= self.samples} | {self.samples}))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics of the final table: greedy, avg@n and pass@n, as far as they were measured."""
        sampled = (f"avg@{self.samples}", f"pass@{self.samples}") if self.samples > 1 else ()
        one = ("avg@1",) if self.samples == 1 else ()
        return (("greedy",) if self.greedy else ()) + sampled + one

    @property
    def main(self) -> str:
        """The metric of breakdowns: the mean over several answers is the least noisy one."""
        return f"avg@{self.samples}" if self.samples else "greedy"

    def values(self, label: str, metric: str) -> Array:
        """A metric of a method for every seed and question, [S, Q]; nan where it is not `known`."""
        if metric == "greedy":
            return self.greedy[label]
        correct, answers = self.correct[label], self.answers[label]
        known, out = self.known(metric), np.full(correct.shape, np.nan)
        correct, answers = correct[:, known], answers[:, known]
        if metric.startswith("avg@"):
            out[:, known] = correct / answers
        else:
            out[:, known] = pass_curve(correct, answers, int(metric.removeprefix("pass@")))
        return out

    def known(self, metric: str) -> NDArray[np.bool_]:
        """Questions with answers enough for a metric in every run [Q]: rewards may have failed."""
        if metric == "greedy":
            there = [~np.isnan(success) for success in self.greedy.values()]
        else:
            least = int(metric.removeprefix("pass@")) if metric.startswith("pass@") else 1
            there = [answers >= least for answers in self.answers.values()]
        return np.asarray(np.concatenate(there).all(axis=0))

    def parts(self, key: str) -> dict[str, NDArray[np.int64]]:
        """Columns by the value of a metadata key, or of "bin", in natural order."""
        if key == "bin":
            found = self.bins or ()
            order: Sequence[str] = [name for name in BINS if name in found]
            texts = list(found)
        else:
            texts = [str(row.get("metadata", {}).get(key)) for row in self.rows]
            order = sorted(set(texts), key=_natural)
        if len(order) > MOST_PARTS:
            common = {name for name, _ in Counter(texts).most_common(MOST_PARTS)}
            order = [name for name in order if name in common]
        values = np.array(texts)
        return {name: np.flatnonzero(values == name) for name in order}

    @cached_property
    def benchmarks(self) -> dict[str, NDArray[np.int64]]:
        """Columns of each benchmark; {} if the evaluation is a single one."""
        for key in BENCHMARK_KEYS:
            if all(key in row.get("metadata", {}) for row in self.rows):
                found = self.parts(key)
                return found if len(found) > 1 else {}
        return {}


def gather(runs: Sequence[RunRecord]) -> Evidence | None:
    """Align the answers of all finished runs; None if no run has any.

    Raises:
        DataError: runs start from different models, or were asked different questions.
    """
    same_base(runs)
    used = [run for run in runs if run.answers is not None]
    if not used:
        return None
    first = keyed(used[0])
    tables = {id(run): same_questions(used[0], first, run) for run in used}
    said: list[str] = []
    labels = list(dict.fromkeys(run.label for run in used))
    by_label = {label: [run for run in used if run.label == label] for label in labels}
    rows = {label: [list(tables[id(run)].values()) for run in by_label[label]] for label in labels}
    by = _by(used[0], list(first.values()))
    greedy, sampled = _asked([table for seeds in rows.values() for table in seeds], said)
    _many(by, list(first.values()), said)
    return Evidence(
        questions=tuple(first),
        rows=tuple(first.values()),
        greedy={k: _array(v, _greedy) for k, v in rows.items()} if greedy else {},
        correct={k: _counts(v, lambda row: int(sum(row["successes"]))) for k, v in rows.items()}
        if sampled
        else {},
        answers={k: _counts(v, lambda row: len(row["successes"])) for k, v in rows.items()}
        if sampled
        else {},
        seeds={label: tuple(run.seed for run in by_label[label]) for label in labels},
        own_bins={
            k: np.array([[str(r.get("bin")) for r in t] for t in v]) for k, v in rows.items()
        },
        bins=_bins([table for seeds in rows.values() for table in seeds], said),
        by=by,
        notices=tuple(said),
    )


def _asked(tables: Sequence[Sequence[Row]], said: list[str]) -> tuple[bool, bool]:
    """Whether every run was asked for greedy and for sampled answers; what is lacking is said.

    Raises:
        DataError: neither.
    """
    greedy = [any(row["greedy"] is not None for row in table) for table in tables]
    sampled = [max(len(row["successes"]) for row in table) for table in tables]
    if not all(greedy) and not all(sampled):
        raise DataError("report: some runs have only greedy answers, and others only sampled ones.")
    if any(greedy) and not all(greedy):
        said.append("some runs have no greedy answers: only sampled ones are compared.")
    if any(sampled) and not all(sampled):
        said.append("some runs have no sampled answers: only greedy accuracy is compared.")
    if len(set(sampled)) > 1 and all(sampled):
        said.append("runs have different numbers of sampled answers per question.")
    failed = sum(
        n - len(row["successes"]) + (asked and row["greedy"] is None)
        for table, asked, n in zip(tables, greedy, sampled, strict=True)
        for row in table
    )
    if failed:
        said.append(
            f"answers of the final evaluations whose rewards failed: {failed}. Means are over a "
            "question's other answers; a question with too few in some run is left out of that "
            "measure for all."
        )
    return all(greedy), all(sampled)


def _many(by: Sequence[str], rows: Sequence[Row], said: list[str]) -> None:
    """Say which keys have more values than are shown."""
    data = [row.get("metadata", {}) for row in rows]
    named = [key for key in BENCHMARK_KEYS if all(key in each for each in data)]
    for key in dict.fromkeys((*by, *named[:1])):
        count = len({str(each.get(key)) for each in data})
        if count > MOST_PARTS:
            said.append(f"{key} has {count} values: the {MOST_PARTS} most frequent are shown.")


def _greedy(row: Row) -> float:
    return math.nan if row["greedy"] is None else float(row["greedy"])


def _array(tables: Sequence[Sequence[Row]], value: Callable[[Row], float]) -> Array:
    return np.array([[value(row) for row in table] for table in tables], dtype=np.float64)


def _counts(tables: Sequence[Sequence[Row]], value: Callable[[Row], int]) -> NDArray[np.int64]:
    return np.array([[value(row) for row in table] for table in tables], dtype=np.int64)


def _bins(tables: Sequence[Sequence[Row]], said: list[str]) -> tuple[str, ...] | None:
    """Each question's difficulty: what most runs measured; None if no run did."""
    measured = [
        [row["bin"] for row in rows if row.get("bin")] for rows in zip(*tables, strict=True)
    ]
    if not any(measured):
        return None
    votes = [Counter(bins) for bins in measured]
    blank = sum(len(bins) < len(tables) for bins in measured)
    if blank:
        said.append(
            f"base difficulty was not measured in every run on {blank} of {len(votes)} questions: "
            "a run without it is left out of that question's bin."
        )
    unlike = sum(len(vote) > 1 for vote in votes)
    if unlike:
        said.append(
            f"base difficulty is measured for every seed apart, and differs on {unlike} of "
            f"{len(votes)} questions: accuracies are by each seed's own, answers are shown by "
            "what most found."
        )
    return tuple(str(vote.most_common(1)[0][0]) if vote else "unknown" for vote in votes)


def _by(run: RunRecord, rows: Sequence[Row]) -> tuple[str, ...]:
    """Metadata keys that accuracy is broken down by: what the recipe says, else `level`."""
    asked = (run.recipe.get("evaluation") or {}).get("by") or ["level"]
    return tuple(key for key in asked if any(key in row.get("metadata", {}) for row in rows))


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
