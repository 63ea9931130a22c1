"""An answer whose reward failed costs that answer: nothing vanishes from the report unsaid."""

import json

import numpy as np
import pytest

from didact.core.errors import DataError
from didact.core.report import build_report, find_cells
from didact.core.report.comparison import compared


@pytest.fixture
def runs(tmp_path, made):
    """Two runs of 40 questions, with 8 sampled answers and a greedy one."""
    settings = {"steps": 20, "questions": 40, "every": 20}
    return [
        made.make_run(tmp_path / name, name, made.Kind((gain,) * 4), **settings)
        for name, gain in (("one", 0.0), ("two", 0.2))
    ]


def edited(run, change):
    """Rewrite the final evaluation, row by row; returns the rows."""
    file = max((run / "evaluation").glob("step-*.jsonl"))
    rows = [change(at, json.loads(line)) for at, line in enumerate(file.read_text().splitlines())]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def same(at, row):
    return row


def means(found, metric):
    return {s.label: s.own.mean for s in found.final if s.metric == metric}


def test_a_failed_greedy_answer_costs_its_question_in_the_greedy_table_alone(runs):
    rows = edited(runs[0], lambda at, row: {**row, "greedy": None} if at == 3 else row)
    others = edited(runs[1], same)
    found = compared(find_cells(runs))
    expected = [
        np.mean([r["greedy"] for r in each if r["id"] != rows[3]["id"]]) for each in (rows, others)
    ]
    assert list(means(found, "greedy").values()) == pytest.approx(expected)
    assert {s.metric: s.own.questions for s in found.final} == {
        "greedy": 39,
        "avg@8": 40,
        "pass@8": 40,
    }
    assert any("whose rewards failed: 1." in n for n in found.notices)


def test_a_failed_sample_costs_its_answer_in_the_mean_and_its_question_where_too_few_are_left(runs):
    def fail(at, row):
        return {**row, "successes": row["successes"][:7]} if at == 5 else row

    rows = edited(runs[0], fail)
    found = compared(find_cells(runs))
    mean = np.mean([np.mean(row["successes"]) for row in rows])
    assert means(found, "avg@8")["one"] == pytest.approx(mean)
    right = np.mean([max(r["successes"]) for at, r in enumerate(rows) if at != 5])
    assert means(found, "pass@8")["one"] == pytest.approx(right)
    counts = {s.metric: s.own.questions for s in found.passes}
    assert counts == {"pass@1": 40, "pass@2": 40, "pass@4": 40, "pass@8": 39}


def test_a_question_without_any_answer_is_left_out_for_all_methods_and_said(runs, tmp_path):
    rows = edited(runs[0], lambda at, r: {**r, "greedy": None, "successes": []} if at == 7 else r)
    others = [r for r in edited(runs[1], same) if r["id"] != rows[7]["id"]]
    found = compared(find_cells(runs))
    assert means(found, "avg@8")["two"] == pytest.approx(
        np.mean([np.mean(r["successes"]) for r in others])
    )
    assert {s.own.questions for s in found.final} == {39}
    assert found.overlap.total == 39
    assert sum(s.own.questions for s in found.parts["level"] if s.label == "one") == 39
    assert any("whose rewards failed: 9." in notice for notice in found.notices)
    assert "with too few in some run" in build_report(runs, tmp_path / "report").read_text()


def test_a_run_without_greedy_answers_is_said_to_take_the_greedy_table_away(runs):
    edited(runs[0], lambda at, row: {**row, "greedy": None})
    found = compared(find_cells(runs))
    assert {s.metric for s in found.final} == {"avg@8", "pass@8"}
    assert "some runs have no greedy answers: only sampled ones are compared." in found.notices


def test_runs_without_a_common_measure_are_refused(runs):
    edited(runs[0], lambda at, row: {**row, "greedy": None})
    edited(runs[1], lambda at, row: {**row, "successes": []})
    with pytest.raises(DataError, match="some runs have only greedy answers, and others only"):
        compared(find_cells(runs))


def test_a_question_without_a_bin_takes_no_other_question_out_of_its_bin(runs):
    rows = edited(runs[0], lambda at, row: {**row, "bin": None} if at == 2 else row)
    found = compared(find_cells(runs))
    counts = {s.part: s.own.questions for s in found.parts["bin"] if s.label == "one"}
    assert sum(counts.values()) == 39
    easy = [np.mean(row["successes"]) for row in rows if row["bin"] == "easy"]
    own = next(s.own for s in found.parts["bin"] if s.label == "one" and s.part == "bin=easy")
    assert own.mean == pytest.approx(np.mean(easy))
    assert any("not measured in every run on 1 of 40 questions" in n for n in found.notices)


def test_parts_that_are_not_shown_are_said(runs):
    for run in runs:
        edited(run, lambda at, row: {**row, "metadata": {**row["metadata"], "level": at % 14}})
    found = compared(find_cells(runs))
    assert "level has 14 values: the 12 most frequent are shown." in found.notices
