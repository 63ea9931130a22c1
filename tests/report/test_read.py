"""Runs are read as far as they can be, and what cannot be compared is refused."""

import json
import shutil

import pytest
import yaml

from didact.core.errors import DataError, DidactError
from didact.core.report import Cells, build_report, find_cells
from didact.core.report.comparison import compared
from didact.core.report.evidence import gather
from didact.core.report.read import read_run


def edit(run, **changes):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **changes}))


def last_evaluation(run):
    return max((run / "evaluation").glob("step-*.jsonl"))


def both(tmp_path, made, run):
    """Another run beside the fixture's."""
    other = made.make_run(
        tmp_path / "other", "other", made.Kind(), steps=20, questions=40, every=10
    )
    return [run, other]


def test_a_finished_run_has_nothing_to_complain_about(run):
    found = read_run(run, "grpo", "0")
    assert found.status == "finished"
    assert found.notices == ()
    assert len(found.train) == 20
    assert list(found.evaluations) == [0, 10, 20]
    assert found.evaluated_at == 20
    assert len(found.answers) == 40


def test_a_cut_off_metric_line_is_reported_and_the_rest_is_read(run):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-30])
    found = read_run(run, "grpo", "0")
    assert len(found.train) == 20
    assert list(found.evaluations) == [0, 10]
    assert any("metrics.jsonl: 1 unreadable or cut off (line 23)" in n for n in found.notices)


def test_missing_metrics_are_reported_and_the_tables_are_still_built(tmp_path, made, run):
    runs = both(tmp_path, made, run)
    (run / "metrics.jsonl").unlink()
    page = build_report(runs, tmp_path / "report").read_text()
    assert "metrics.jsonl is missing: no curves and no costs" in page
    assert "Final accuracy: avg@8" in page


def test_missing_steps_are_counted(run):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] not in (5, 6)]
    (run / "metrics.jsonl").write_text("".join(kept))
    assert any("2 of 20 steps are missing" in n for n in read_run(run, "grpo", "0").notices)


def test_a_cut_off_evaluation_is_left_out_and_reported_not_refused(tmp_path, made, run):
    runs = both(tmp_path, made, run)
    file = last_evaluation(runs[1])
    file.write_text(file.read_text()[:-100])
    page = build_report(runs, tmp_path / "report").read_text()
    assert "left out of all tables of accuracy" in page


def test_an_evaluation_from_before_the_last_step_is_not_taken_for_the_final_one(run):
    last_evaluation(run).unlink()
    found = read_run(run, "grpo", "0")
    assert found.status == "finished" and found.answers is None
    assert any("newest evaluation is of step 10, not of the last, 20" in n for n in found.notices)


def test_a_run_that_failed_at_its_end_is_not_taken_for_finished(run):
    shutil.rmtree(run / "final")
    (run / "error.txt").write_text("OSError: no room")
    assert read_run(run, "grpo", "0").status == "failed"


def test_a_file_that_changed_between_two_runs_is_told(tmp_path, made, run):
    runs = both(tmp_path, made, run)
    for folder, found in zip(runs, ("aa", "bb"), strict=True):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "data": {"task": found}}))
        edit(folder, task={"use": "jsonl", "path": "train.jsonl"})
    said = [text for text in compared(find_cells(runs)).caveats if "another file" in text]
    assert len(said) == 1 and "the same as task" in said[0]
    edit(runs[1], task={"use": "jsonl", "path": "other.jsonl"})
    assert not [text for text in compared(find_cells(runs)).caveats if "another file" in text]


def test_a_failed_run_says_so_with_its_error(comparison, tmp_path, made):
    folder = shutil.copytree(comparison, tmp_path / "copy", ignore=shutil.ignore_patterns("report"))
    bad = folder / "cells" / "relift" / "1"
    shutil.rmtree(bad / "final")
    last_evaluation(bad).unlink()
    (bad / "error.txt").write_text(
        "Traceback\ndidact.core.errors.RunError: step 12: metric 'rl/loss' is nan."
    )
    shutil.rmtree(folder / "cells" / "relift" / "2")
    build_report(folder, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "relift, seed 1 failed after 20 steps" in text
    assert "in no table: RunError: step 12: metric 'rl/loss' is nan." in text
    assert "relift, seed 2 is missing" in text
    assert "Seed variance is unknown for relift" in text
    assert "They are not paired" in text


def test_runs_with_other_questions_are_refused_with_the_difference(tmp_path, made, run):
    other = made.make_run(
        tmp_path / "other", "other", made.Kind(), steps=20, questions=42, every=10
    )
    with pytest.raises(DidactError, match=r"2 only in 'other, seed 0' \(letters/40, letters/41\)"):
        build_report([run, other], tmp_path / "report")


def test_the_same_ids_with_other_texts_are_refused_too(tmp_path, made, run):
    runs = both(tmp_path, made, run)
    file = last_evaluation(runs[1])
    file.write_text(file.read_text().replace("chain 7 make", "chain 8 make"))
    with pytest.raises(DidactError, match="question 'letters/7' is"):
        build_report(runs, tmp_path / "report")


def test_the_order_of_questions_does_not_matter(tmp_path, made, run):
    shutil.copytree(run, tmp_path / "copy")
    file = last_evaluation(tmp_path / "copy")
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    records = find_cells([run, tmp_path / "copy"]).read()
    found = gather(records)
    assert (found.values("grpo", "avg@8") == found.values("copy", "avg@8")).all()


@pytest.mark.parametrize(
    "changes", [{"base": "other_base"}, {"models": {"policy": {"path": "other/model"}}}]
)
def test_runs_from_other_base_models_are_refused_by_name(tmp_path, made, run, changes):
    runs = both(tmp_path, made, run)
    edit(runs[1], **changes)
    with pytest.raises(DidactError, match=r"start from different models.*other"):
        build_report(runs, tmp_path / "report")


def test_runs_of_one_seed_that_measured_other_base_difficulties_are_flagged(tmp_path, comparison):
    folder = shutil.copytree(comparison, tmp_path / "copy", ignore=shutil.ignore_patterns("report"))
    assert not compared(find_cells([folder])).evidence.notices
    file = last_evaluation(folder / "cells" / "relift" / "1")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3]["bin"] = "easy" if rows[3]["bin"] != "easy" else "hard"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (said,) = [c for c in compared(find_cells([folder])).caveats if "base difficulties" in c]
    assert said.startswith(
        "relift, seed 1 measured other base difficulties than grpo, seed 1 on 1 of 80"
    )


def test_a_path_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither a run"):
        build_report([tmp_path], tmp_path / "report")


def test_runs_of_one_recipe_are_seeds_of_one_method(tmp_path, made):
    kind = made.Kind()
    paths = [
        made.make_run(tmp_path / f"grpo-s{s}", "grpo", kind, seed=s, steps=4, questions=9)
        for s in (0, 1)
    ]
    cells = find_cells(paths)
    assert cells.labels == ("grpo",)
    assert [cell.seed for cell in cells.cells] == ["0", "1"]


def test_a_copy_of_a_run_is_a_method_of_its_own_and_differs_by_exactly_zero(tmp_path, run):
    shutil.copytree(run, tmp_path / "copy")
    build_report([run, tmp_path / "copy"], tmp_path / "report", baseline="grpo")
    text = (tmp_path / "report" / "report.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith("final,copy,all,all,greedy"))
    assert row.split(",")[8:15] == ["0", "0", "0", "1", "", "1", "1"]


def test_a_run_beside_its_own_comparison_is_no_method_of_its_own(comparison, tmp_path):
    with pytest.raises(DataError, match="a run was given twice"):
        find_cells([comparison, comparison / "cells" / "grpo" / "0"])


def test_a_comparison_needs_a_baseline_among_its_labels(comparison, tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps({"labels": ["a"], "baseline": "b"}))
    with pytest.raises(DataError, match="no method named 'b'"):
        Cells.of_comparison(tmp_path)
    with pytest.raises(DataError, match="Did you mean 'relift'"):
        build_report(comparison, tmp_path / "report", baseline="reliftt")
