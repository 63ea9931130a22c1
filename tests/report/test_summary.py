"""The tables of the terminal say what the report says."""

import re
from dataclasses import replace

import pytest

from didact.core.report import compared, find_cells, print_summary


@pytest.fixture
def found(comparison):
    return compared(find_cells([comparison]))


def printed(found, capsys):
    """Figures by table and method."""
    print_summary(found)
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r" {2,}", line.strip()) for line in lines]
    return [row for row in rows if row[0] in found.labels]


def test_every_figure_is_the_reports(found, capsys):
    whole = [s for s in found.final if s.metric == found.evidence.main and s.benchmark == "all"]
    tables = [[*whole, *found.parts["level"]], list(found.parts["bin"])]
    expected = [
        [label, *(f"{100 * s.own.mean:.1f}" for s in scores if s.label == label), demos]
        for scores in tables
        for label, demos in (("grpo", "0"), ("relift", "160"))
    ]
    assert printed(found, capsys) == expected
    assert len({row[1] for row in expected}) > 2  # figures that could be told apart


def test_a_method_that_failed_says_so_and_names_are_no_markup(found, capsys):
    runs = tuple(
        replace(run, label="[dr] x" if run.label == "relift" else "grpo", status="failed")
        if run.label == "relift"
        else run
        for run in found.runs
    )
    named = replace(found.cells, labels=("grpo", "[dr] x"))
    assert printed(replace(found, cells=named, runs=runs), capsys)[1][:2] == ["[dr] x", "failed"]
