"""What a person is told beside the numbers: rows that were left out, phases that never stepped."""

import pytest

from didact.configs.console import Console
from didact.configs.launch import tell_left_out
from didact.core.folder import RunFolder
from didact.feedback.tasks.rows import Table


@pytest.mark.parametrize(("error", "told"), [(None, True), (RuntimeError("lost"), False)])
def test_a_phase_that_never_stepped_is_told_at_the_end(capsys, error, told):
    watch = Console().watching(2, ["rl", "sft"])
    for step in range(2):
        watch.on_step(step, [], {"reward/policy": 0.5, "rl/updates": 1.0, "rl/loss": 0.1})
    watch.on_end(error)
    said = "note: phase 'sft' never stepped; see its 'take' and 'when'" in capsys.readouterr().err
    assert said == told


def test_a_run_that_goes_on_says_nothing_of_phases_it_has_not_seen_from_the_start(capsys):
    watch = Console().watching(9, ["sft"])
    watch.on_step(7, [], {})
    watch.on_end(None)
    assert "never stepped" not in capsys.readouterr().err


@pytest.mark.parametrize(("console", "lines"), [(Console(), 20), (Console().nested(), 2)])
def test_a_log_has_a_line_for_each_step_and_of_a_run_inside_a_run_one_a_second(
    capsys, console, lines
):
    watch = console.watching(20)
    for step in range(20):
        watch.on_step(step, [], {"rl/loss": 0.1})
    assert len(capsys.readouterr().err.splitlines()) == lines  # the first and the last


def test_rows_that_are_left_out_are_counted_and_listed(capsys, tmp_path):
    table = Table("d.jsonl", (), skipped=["d.jsonl:2: is no JSON", "d.jsonl:5: empty"], filtered=3)
    tell_left_out("evaluation.task", table, Console())
    assert capsys.readouterr().err.splitlines() == [
        "evaluation.task: 3 rows are not chosen by 'where'",
        "evaluation.task: 2 rows skipped:",
        "  d.jsonl:2: is no JSON",
        "  d.jsonl:5: empty",
    ]
    tell_left_out("task", table, Console(), RunFolder(tmp_path))
    assert "2 rows skipped, the first: d.jsonl:2: is no JSON" in capsys.readouterr().err
    assert (tmp_path / "skipped-task.txt").read_text().splitlines() == table.skipped
