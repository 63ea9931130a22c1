"""A whole comparison worked out: what every output format of the report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from didact.core.errors import DataError
from didact.core.report.alike import unlike_bins, unlike_data
from didact.core.report.answers import Browser, final_answers, training_samples
from didact.core.report.cells import Cells
from didact.core.report.costs import Cost, budget_notices, costs, match_notices
from didact.core.report.curves import Curves, curves
from didact.core.report.evidence import Evidence, gather
from didact.core.report.overlap import Overlap, overlap, recipe_diffs
from didact.core.report.read import RunRecord
from didact.core.report.scores import Score, final_scores, in_words, part_scores, pass_scores


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown.

    Attributes:
        evidence: None if no run finished with an evaluation; then only curves and costs are shown.
        words: findings as sentences.
        caveats: what a reader has to know before believing them.
        notices: what was missing or cut off.
    """

    cells: Cells
    runs: tuple[RunRecord, ...]
    evidence: Evidence | None
    final: tuple[Score, ...]
    parts: Mapping[str, Sequence[Score]]
    passes: tuple[Score, ...]
    costs: tuple[Cost, ...]
    curves: Curves
    overlap: Overlap | None
    diffs: Mapping[str, Sequence[tuple[str, str, str]]]
    answers: Browser | None
    training: Browser
    words: tuple[str, ...]
    caveats: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def baseline(self) -> str:
        return self.cells.baseline

    @property
    def labels(self) -> tuple[str, ...]:
        return self.cells.labels


def compared(cells: Cells) -> Comparison:
    """Read all runs and work out the comparison.

    Raises:
        DataError: the runs cannot be compared, or there is nothing to show.
    """
    runs = cells.read()
    if not any(run.recipe for run in runs):
        raise DataError(f"report: no run has started: {', '.join(str(r.path) for r in runs)}.")
    evidence = gather(runs)
    spent = costs(runs)
    final = final_scores(evidence, cells.baseline) if evidence else []
    words = in_words(final, cells.baseline, evidence.main) if evidence else []
    return Comparison(
        cells=cells,
        runs=tuple(runs),
        evidence=evidence,
        final=tuple(final),
        parts=part_scores(evidence, cells.baseline) if evidence else {},
        passes=tuple(pass_scores(evidence)) if evidence else (),
        costs=tuple(spent),
        curves=curves(runs),
        overlap=overlap(evidence) if final and evidence and len(evidence.labels) > 1 else None,
        diffs=recipe_diffs(runs, cells.baseline),
        answers=final_answers(evidence, runs) if evidence else None,
        training=training_samples(runs),
        words=tuple(words),
        caveats=tuple(_caveats(cells, runs, evidence, spent)),
        notices=(*(text for run in runs for text in run.notices), *_apart(evidence)),
    )


def _apart(evidence: Evidence | None) -> tuple[str, ...]:
    return evidence.notices if evidence else ()


def _caveats(
    cells: Cells, runs: Sequence[RunRecord], evidence: Evidence | None, spent: Sequence[Cost]
) -> list[str]:
    out = [*_states(runs), *unlike_data(runs)]
    out += [
        f"{name} ran by another recipe than its file says now: it has not run again since."
        for name in cells.outdated
    ]
    if evidence is None:
        out.append("No run has a usable final evaluation: there are no accuracies to compare.")
    else:
        out += _seed_caveats(cells.baseline, evidence)
        out += [*_question_caveats(evidence), *unlike_bins(runs)]
    if cells.at_once > 1:
        out.append(
            f"Up to {cells.at_once} runs at once shared a machine: their seconds are not those of "
            f"a run that has it to itself."
        )
    return [
        *out,
        *match_notices(runs, cells.matches),
        *budget_notices(spent, cells.baseline, cells.budget),
    ]


def _states(runs: Sequence[RunRecord]) -> list[str]:
    out = []
    for run in runs:
        last = max(run.train, default=0)
        if run.status == "failed":
            out.append(f"{run.name} failed after {last} steps and is in no table: {run.reason}")
        elif run.status == "unfinished":
            out.append(f"{run.name} is unfinished ({last} steps) and is in no table of accuracy.")
        elif run.status == "missing":
            out.append(f"{run.name} is missing: it was planned, but has no run.")
    return out


def _seed_caveats(baseline: str, evidence: Evidence) -> list[str]:
    counts = {label: len(seeds) for label, seeds in evidence.seeds.items()}
    out = []
    single = [label for label, count in counts.items() if count == 1]
    if single:
        out.append(
            f"Seed variance is unknown for {_named(single, counts)}: with one seed the "
            "intervals are over questions only, and another seed may move a result by more than "
            "they say."
        )
    double = [label for label, count in counts.items() if count == 2]
    if double:
        out.append(
            f"Only two seeds for {_named(double, counts)}: their variance is hardly known, and "
            "the 5 % test rejects too often then (in simulations up to 12 % under no difference)."
        )
    if baseline not in counts:
        return [*out, f"The baseline {baseline} has no final evaluation: no differences are shown."]
    unlike = [k for k in counts if set(evidence.seeds[k]) != set(evidence.seeds[baseline])]
    if unlike:
        out.append(
            f"Other seeds than the baseline's: {_named(unlike, counts)}. They are not paired."
        )
    return out


def _named(labels: Sequence[str], every: Sequence[str] | Mapping[str, object]) -> str:
    """Labels in a sentence; they may have commas."""
    return "every method" if len(labels) == len(every) > 3 else "; ".join(labels)


def _question_caveats(evidence: Evidence) -> list[str]:
    count = len(evidence.questions)
    texts = Counter(str(row["question"]) for row in evidence.rows)
    out = []
    if count < 100:
        out.append(f"Only {count} questions: only large differences can be seen.")
    if len(texts) < count:
        out.append(
            f"{count - len(texts)} of {count} questions repeat another's text: they weigh as much "
            "as others in every mean, and count with those that they repeat as one question in "
            "intervals and tests."
        )
    return out
