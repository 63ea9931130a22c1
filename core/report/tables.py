"""The report's tables: results, breakdowns, costs, overlap, recipe differences, runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from didact.core.report.cells import AXES
from didact.core.report.costs import Cost
from didact.core.report.overlap import Overlap
from didact.core.report.read import RunRecord
from didact.core.report.scores import Score, shown_p
from didact.core.report.table import Table, amount, percent, points, span

CELLS_SHOWN = 120


def final_tables(scores: Sequence[Score], baseline: str) -> list[Table]:
    """One table per metric: mean, interval, difference to the baseline, p, corrected p."""
    out = []
    for metric in dict.fromkeys(score.metric for score in scores):
        mine = [score for score in scores if score.metric == metric]
        several = len({score.benchmark for score in mine}) > 1
        tests = sum(score.against is not None for score in mine)
        columns = [
            "method",
            *(["benchmark"] if several else []),
            "seeds",
            "mean %",
            "95 % interval",
        ]
        columns += [f"minus {baseline}", "95 % interval ", "p", "p (Holm)", "finding"]
        rows = [_final_row(score, several) for score in mine]
        questions = mine[0].own.questions
        notes = [
            f"{questions:,} questions. Intervals: bootstrap over questions and seeds. p: sign-flip "
            "test over questions, and with several seeds the larger of it and a t test with the "
            f"seeds' variance. Holm: corrected for {tests} test{'s' * (tests != 1)} of {metric}.",
            *_interval_notes(mine),
        ]
        marks = [score.verdict.replace("no difference shown", "") for score in mine]
        heads = 2 if several else 1
        out.append(Table(f"Final accuracy: {metric}", columns, rows, heads, notes, marks))
    return out


def _interval_notes(scores: Sequence[Score]) -> list[str]:
    """What intervals do not say, where that matters."""
    out = []
    if any(not score.own.seed_variance_known for score in scores):
        out.append("With one seed the interval is over questions only; seed variance is unknown.")
    if any(score.own.low == score.own.high for score in scores):
        out.append("An interval without width means that all answers were alike, not certainty.")
    return out


def _final_row(score: Score, several: bool) -> list[str]:
    own = score.own
    row = [score.label, *([score.benchmark] if several else []), str(own.seeds), percent(own.mean)]
    row.append(span(own.low, own.high))
    if score.against is None:
        return [*row, "—", "—", "—", "—", score.verdict]
    found = score.against.estimate
    tested = [shown_p(score.against.p), shown_p(score.p_holm), score.verdict]
    return [*row, points(found.mean), span(found.low, found.high, sign=True), *tested]


def part_table(key: str, scores: Sequence[Score], baseline: str) -> Table:
    """Accuracy of parts of the questions: a row a part and method."""
    columns = [key, "method", "mean %", "95 % interval", f"minus {baseline}", "95 % interval "]
    rows = []
    for score in scores:
        own, against = score.own, score.against
        row = [score.part.partition("=")[2], score.label, percent(own.mean)]
        row.append(span(own.low, own.high))
        if against is None:
            row += ["—", "—"]
        else:
            found = against.estimate
            row += [points(found.mean), span(found.low, found.high, sign=True)]
        rows.append([*row, f"{own.questions:,}"])
    what = "base-model difficulty" if key == "bin" else key
    notes = ["Not tested, and not corrected for the number of parts: read as description."]
    notes += _interval_notes(scores)
    if key == "bin":
        notes.append(
            "Bins are by how often the model before training was right: easy ≥ 75 %, medium ≥ "
            "37.5 %, hard > 0, hardest = 0 of its answers. They come from a sample, so "
            "some questions of the hardest bin were merely unlucky. Every seed goes by its own; "
            "the number of questions is the mean over the seeds."
        )
    metric = scores[0].metric if scores else ""
    title = f"{metric} by {what}"
    return Table(title, [*columns, "questions"], rows, 2, notes)


def pass_table(scores: Sequence[Score]) -> Table:
    """pass@k: a row a method, a column a k."""
    ks = list(dict.fromkeys(score.metric for score in scores))
    labels = list(dict.fromkeys(score.label for score in scores))
    by = {(score.label, score.metric): score.own for score in scores}
    rows = [
        [label, *(f"{percent(by[label, k].mean)} ({span(by[label, k].low, by[label, k].high)})"
                  for k in ks)]
        for label in labels
    ]  # fmt: skip
    notes = ["Unbiased estimate from the sampled answers; 95 % intervals in brackets."]
    return Table("pass@k in %", ["method", *ks], rows, 1, notes)


def cost_table(costs: Sequence[Cost], baseline: str, budget: str | None) -> Table:
    """Totals of each method, means over its finished runs."""
    whose = sorted({name for cost in costs for name in cost.memory})
    memory = [f"peak {name} memory, GiB" for name in whose] or ["peak memory, GiB"]
    columns = ["method", "runs", *AXES, "demonstrations, share %", *memory]
    rows = [
        [
            cost.label,
            str(cost.runs),
            *(amount(cost.totals[axis]) for axis in AXES),
            percent(cost.share),
            *(amount(cost.memory.get(name, math.nan)) for name in whose or [""]),
        ]
        for cost in costs
    ]
    meant = f" The budget was set in {budget}." if budget else ""
    notes = [
        "Means over the finished runs of a method. Demonstrations are counted each time a phase "
        "learned from one; their share is of all trajectories that were learned from. Seconds are "
        "of training steps, without evaluations. Memory is the highest peak of any run, of the "
        f"GPU or, without one, of the whole process.{meant}"
    ]
    marks = ["baseline" if cost.label == baseline else "" for cost in costs]
    return Table("What training cost", columns, rows, 1, notes, marks)


def stage_table(costs: Sequence[Cost]) -> Table:
    """Seconds by what they went to."""
    names = list(dict.fromkeys(name for cost in costs for name in cost.stages))
    rows = [[c.label, *(amount(c.stages.get(n, math.nan)) for n in names)] for c in costs]
    return Table("Seconds by stage", ["method", *names], rows)


def overlap_tables(found: Overlap) -> list[Table]:
    """How many questions each method solves, alone, and where another does not."""
    labels = list(found.solved)
    summary = [
        [
            name,
            str(found.count(name)),
            str(found.only(name)),
            percent(found.count(name) / found.total),
        ]
        for name in labels
    ]
    notes = [
        f"A question counts as solved if at least half of a method's answers ({found.metric}, all "
        f"seeds) are right. Of {found.total:,} questions all methods solve {found.by_all:,}, none "
        f"solves {found.by_none:,}."
    ]
    first = Table(
        "Solved questions", ["method", "solved", "solved by no other", "%"], summary, 1, notes
    )
    rows = [
        [name, *("—" if name == other else str(found.missing(name, other)) for other in labels)]
        for name in labels
    ]
    return [
        first,
        Table("Solved by the row's method, but not by the column's", ["", *labels], rows),
    ]


def diff_table(label: str, baseline: str, rows: Sequence[tuple[str, str, str]]) -> Table:
    """Where a method's recipe differs from the baseline's."""
    shown = [list(row) for row in rows[:CELLS_SHOWN]]
    left = len(rows) - len(shown)
    notes = [f"{left} further differences are not shown."] if left else []
    if not rows:
        notes = ["The recipes are the same."]
    title = f"{label} against {baseline}"
    return Table(title, ["setting", baseline, label], shown, 1, notes, wide=True)


def run_table(runs: Sequence[RunRecord]) -> Table:
    """Every cell with its state."""
    rows = []
    for run in runs:
        last = max(run.train, default=0)
        state = run.status if run.status in ("finished", "missing") else f"{run.status} at {last}"
        rows.append(
            [run.label, run.seed, state, str(last), run.reason if run.error else "—", _place(run)]
        )
    marks = ["" if run.status == "finished" else "failed" for run in runs]
    columns = ["method", "seed", "state", "steps", "error", "folder"]
    return Table("Runs", columns, rows, 2, (), marks, wide=True)


def _place(run: RunRecord) -> str:
    """The end of the folder's path: enough to find it, nothing about whose machine it was."""
    return "/".join(run.path.resolve().parts[-3:])


def manifest_table(runs: Sequence[RunRecord]) -> Table:
    """What runs were made with; equal values of all runs stand once."""
    every: dict[str, dict[str, str]] = {}
    for run in runs:
        for path, value in _flat("", run.manifest):
            every.setdefault(path, {})[run.name] = value
    known = [run.name for run in runs if run.manifest]
    rows = [row for path, by in every.items() for row in _manifest_rows(path, by, known)]
    return Table("Manifest", ["what", "value", "runs"], rows[:400], 1, (), wide=True)


def _manifest_rows(path: str, by: Mapping[str, str], known: Sequence[str]) -> Iterable[list[str]]:
    values: dict[str, list[str]] = {}
    for name in known:
        values.setdefault(by.get(name, "—"), []).append(name)
    for value, names in values.items():
        yield [path, value, "all" if len(values) == 1 else "; ".join(names)]


def _flat(path: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)
