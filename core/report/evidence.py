"""What all finished runs answered, aligned: the same questions in columns, seeds in rows.

Runs that cannot be compared are refused here, with the difference named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.core.errors import DataError
from didact.core.evaluate import BINS
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
        greedy: by method, success of the greedy answer [S, Q]; empty if some run has none.
        correct, answers: by method, counts of sampled answers [S, Q]; empty if some run has none.
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
    def samples(self) -> int:
        """Sampled answers that every question has in every run."""
        return min((int(counts.min()) for counts in self.answers.values()), default=0)

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
        """A metric of a method for every seed and question, [S, Q]."""
        if metric == "greedy":
            return self.greedy[label]
        correct, answers = self.correct[label], self.answers[label]
        if metric.startswith("avg@"):
            return np.asarray(correct / answers, dtype=np.float64)
        return pass_curve(correct, answers, int(metric.removeprefix("pass@")))

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
    first = _keyed(used[0])
    tables = {id(run): _same_questions(used[0], first, run) for run in used}
    said: list[str] = []
    labels = list(dict.fromkeys(run.label for run in used))
    by_label = {label: [run for run in used if run.label == label] for label in labels}
    rows = {label: [list(tables[id(run)].values()) for run in by_label[label]] for label in labels}
    every = [row for seeds in rows.values() for table in seeds for row in table]
    has_greedy = all(row["greedy"] is not None for row in every)
    sampled = [bool(row["successes"]) for row in every]
    if any(sampled) and not all(sampled):
        said.append("some runs have no sampled answers: only greedy accuracy is compared.")
    if len({len(row["successes"]) for row in every}) > 1 and all(sampled):
        said.append("runs have different numbers of sampled answers per question.")
    return Evidence(
        questions=tuple(first),
        rows=tuple(first.values()),
        greedy={k: _array(v, lambda row: float(row["greedy"])) for k, v in rows.items()}
        if has_greedy
        else {},
        correct={k: _counts(v, lambda row: int(sum(row["successes"]))) for k, v in rows.items()}
        if all(sampled)
        else {},
        answers={k: _counts(v, lambda row: len(row["successes"])) for k, v in rows.items()}
        if all(sampled)
        else {},
        seeds={label: tuple(run.seed for run in by_label[label]) for label in labels},
        own_bins={
            k: np.array([[str(r.get("bin")) for r in t] for t in v]) for k, v in rows.items()
        },
        bins=_bins([table for seeds in rows.values() for table in seeds], said),
        by=_by(used[0], list(first.values())),
        notices=tuple(said),
    )


def same_base(runs: Sequence[RunRecord]) -> None:
    """Refuse runs that start from different models.

    Raises:
        DataError: names the two runs and what differs.
    """
    starts: dict[Any, RunRecord] = {}
    for run in runs:
        start = run.manifest.get("start")
        other = starts.setdefault(run.manifest.get("seed"), run) if start else run
        if other.manifest.get("start") != start:
            raise DataError(
                f"these runs start from different models and cannot be compared: '{other.name}' "
                f"from {_shown(other.manifest.get('start'))}, '{run.name}' from {_shown(start)}."
            )
    known = [run for run in runs if run.recipe]
    for run in known[1:]:
        for what in ("base", "policy"):
            here, there = _base(known[0], what), _base(run, what)
            if here != there:
                raise DataError(
                    f"these runs start from different models and cannot be compared: {what} of "
                    f"'{known[0].name}' is {_shown(here)}, of '{run.name}' {_shown(there)}."
                )


def _base(run: RunRecord, what: str) -> Any:
    if what == "base":
        return run.recipe.get("base")
    return (run.recipe.get("models") or {}).get("policy")


def _shown(value: Any) -> str:
    return "not named" if value is None else json.dumps(value, sort_keys=True, default=str)


def _keyed(run: RunRecord) -> dict[str, Row]:
    """Rows by id; an id that occurs again gets its number."""
    seen: Counter[str] = Counter()
    out = {}
    for row in run.answers or ():
        name = str(row["id"])
        seen[name] += 1
        out[name if seen[name] == 1 else f"{name}#{seen[name]}"] = row
    return out


def _same_questions(one: RunRecord, first: Mapping[str, Row], other: RunRecord) -> dict[str, Row]:
    """The other run's rows in the order of the first's.

    Raises:
        DataError: they were asked different questions.
    """
    second = _keyed(other)
    only = (
        [key for key in first if key not in second],
        [key for key in second if key not in first],
    )
    if any(only):
        said = [
            f"{len(keys)} only in '{run.name}' ({', '.join(keys[:3])}{', …' if keys[3:] else ''})"
            for keys, run in zip(only, (one, other), strict=True)
            if keys
        ]
        raise DataError(
            f"these runs were evaluated on different questions and cannot be compared: "
            f"{'; '.join(said)}."
        )
    for key, row in first.items():
        for what in ("question", "answer"):
            if row[what] != second[key][what]:
                raise DataError(
                    f"these runs were evaluated on different questions and cannot be compared: the "
                    f"{what} '{key}' is {_cut(row[what])} in '{one.name}' and "
                    f"{_cut(second[key][what])} in '{other.name}'."
                )
    return {key: second[key] for key in first}


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def _array(tables: Sequence[Sequence[Row]], value: Callable[[Row], float]) -> Array:
    return np.array([[value(row) for row in table] for table in tables], dtype=np.float64)


def _counts(tables: Sequence[Sequence[Row]], value: Callable[[Row], int]) -> NDArray[np.int64]:
    return np.array([[value(row) for row in table] for table in tables], dtype=np.int64)


def unlike_bins(runs: Sequence[RunRecord]) -> list[str]:
    """Runs of one seed measure base difficulty with the same model and the same random numbers; a
    sentence for each run that found other bins than the first of its seed."""
    first: dict[str, tuple[RunRecord, Mapping[str, Any]]] = {}
    out = []
    for run in runs:
        bins = {key: row.get("bin") for key, row in _keyed(run).items()}
        if not any(bins.values()):
            continue
        other, there = first.setdefault(run.seed, (run, bins))
        unlike = sum(bins[key] != there.get(key) for key in bins)
        if unlike:
            out.append(
                f"{run.name} measured other base difficulties than {other.name} on {unlike} of "
                f"{len(bins)} questions, though a seed has one base model: its evaluation before "
                "the first step had other settings, or ran on other software or hardware."
            )
    return out


def _bins(tables: Sequence[Sequence[Row]], said: list[str]) -> tuple[str, ...] | None:
    """Each question's difficulty: what most runs measured."""
    votes = [Counter(row.get("bin") for row in rows) for rows in zip(*tables, strict=True)]
    if any(None in vote for vote in votes):
        return None
    unlike = sum(len(vote) > 1 for vote in votes)
    if unlike:
        said.append(
            f"base difficulty is measured for every seed apart, and differs on {unlike} of "
            f"{len(votes)} questions: accuracies are by each seed's own, answers are shown by "
            "what most found."
        )
    return tuple(str(vote.most_common(1)[0][0]) for vote in votes)


def _by(run: RunRecord, rows: Sequence[Row]) -> tuple[str, ...]:
    """Metadata keys that accuracy is broken down by: what the recipe says, else `level`."""
    asked = (run.recipe.get("evaluation") or {}).get("by") or ["level"]
    return tuple(key for key in asked if any(key in row.get("metadata", {}) for row in rows))


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
