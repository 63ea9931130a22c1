"""Comparisons that run: cells, reuse, matching, failures, and what is told of them."""

import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from comparisons import comparison
from conftest import TINY

from didact.configs.cells import spent, state_of
from didact.configs.compare import run_comparison
from didact.configs.comparison import cells, load_comparison
from didact.configs.document import Place, assign
from didact.configs.launch import data_of, train_recipe
from didact.configs.load import check
from didact.configs.resolve import as_yaml, resolved
from didact.core.errors import RecipeError, RunError
from didact.core.folder import RunFolder
from didact.core.report import compared, find_cells, print_summary, write_report
from didact.core.report.answers import training_samples
from didact.plugins.manager import load

METHODS = textwrap.indent(
    """\
One: sft
Same: sft
Half:
  recipe: sft
  set: {sampler.prompts: 2, steps: 9}
  match: {axis: demonstrations, of: One}
Broken:
  recipe: sft
  set: {prompt.max_tokens: 2}
""",
    "  ",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison that was run once, with one method that fails."""
    folder = tmp_path_factory.mktemp("comparison")
    file = comparison(folder, METHODS)
    with pytest.raises(RunError, match="2 of 8 cells failed; report: ") as failure:
        run_comparison(file, folder / "out")
    assert "failed: Broken / seed 0: problem 'letters/" in str(failure.value)
    return file, folder / "out", Path(str(failure.value).rpartition("report: ")[2])


def rows(out, label, seed=0):
    lines = (out / "cells" / label / str(seed) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_cell_is_a_run_and_a_failed_one_takes_no_other_down(finished):
    _, out, report = finished
    for label in ("one", "same", "half"):
        for seed in ("0", "1"):
            assert (out / "cells" / label / seed / "final").is_dir()
    broken = (out / "cells" / "broken" / "0" / "error.txt").read_text()
    assert "its prompt has" in broken
    text = report.read_text(encoding="utf-8")
    assert "its prompt has" in text
    assert (out / "report.md").exists() and (out / "report.csv").exists()


def test_two_identical_methods_have_exactly_the_same_answers(finished):
    _, out, _ = finished
    for seed in ("0", "1"):
        one, same = (
            sorted((out / "cells" / label / seed / "evaluation").iterdir())[-1].read_text()
            for label in ("one", "same")
        )
        assert one == same


def test_a_matched_method_spends_what_the_other_spent(finished):
    _, out, _ = finished
    spent = [
        [row["spent/demonstrations"] for row in rows(out, label) if row["kind"] == "train"][-1]
        for label in ("one", "half")
    ]
    assert spent[0] == spent[1] == 8.0


def test_finished_cells_are_reused_and_changed_ones_run_again(finished, tmp_path, capsys):
    file, out, _ = finished
    before = (out / "cells" / "one" / "0" / "manifest.json").stat().st_mtime_ns
    run_comparison(file, out, only=["One"])
    assert "One / seed 0: done before, reused" in capsys.readouterr().err
    assert (out / "cells" / "one" / "0" / "manifest.json").stat().st_mtime_ns == before
    copy = shutil.copytree(out, tmp_path / "out")
    changed = Path(file).read_text().replace("One: sft", "One: {recipe: sft, set: {steps: 3}}")
    (tmp_path / "mine.yaml").write_text(changed)
    run_comparison(str(tmp_path / "mine.yaml"), copy, only=["One"], seeds=[0])
    assert rows(copy, "one")[-1]["step"] == 3
    assert len(list((copy / "cells" / "one").glob("*"))) == 3  # seed 0, seed 1, and 0.replaced
    old = RunFolder(copy / "cells" / "one" / "0.replaced").recipe.read_text()
    assert old == RunFolder(out / "cells" / "one" / "0").recipe.read_text()


def test_a_finished_cell_runs_again_when_its_data_has_changed(finished, tmp_path):
    cell = cells(load_comparison(finished[0]), shutil.copytree(finished[1], tmp_path / "out"))[0]
    assert state_of(cell) == "done"
    (tmp_path / "train.jsonl").write_text("{}")
    task = {"use": "jsonl", "path": str(tmp_path / "train.jsonl")}
    assign(cell.document, "task", task, Place("test", 0))
    recipe = check(cell.document, load())
    cell.folder.recipe.write_text(as_yaml(resolved(recipe)))
    manifest = json.loads(cell.folder.manifest.read_text())
    cell.folder.manifest.write_text(json.dumps({**manifest, "data": data_of(recipe)}))
    assert state_of(cell) == "done"
    (tmp_path / "train.jsonl").write_text("{} ")
    assert state_of(cell) == "changed"


def test_runs_of_an_older_file_are_told_in_the_report_and_not_matched(finished, tmp_path):
    file, out, _ = finished
    copy = shutil.copytree(out, tmp_path / "out")
    changed = Path(file).read_text().replace("One: sft", "One: {recipe: sft, set: {steps: 3}}")
    (tmp_path / "mine.yaml").write_text(changed)
    report = run_comparison(str(tmp_path / "mine.yaml"), copy, only=["Same"])
    assert "One, seed 1 ran by another recipe than its file says now" in report.read_text()
    with pytest.raises(RecipeError, match="'One', which has changed since it ran: name it with"):
        run_comparison(str(tmp_path / "mine.yaml"), copy, only=["Half"])
    report = run_comparison(file, copy, only=["Same"])
    assert "ran by another recipe" not in report.read_text()


def test_a_method_that_did_not_get_what_it_was_to_match_is_told(finished, tmp_path):
    file, out, _ = finished
    assert "to have as many" not in (out / "report.md").read_text()
    text = Path(file).read_text().replace("prompts: 2, steps: 9", "prompts: 2, steps: 3")
    (tmp_path / "mine.yaml").write_text(text)
    copy = shutil.copytree(out, tmp_path / "out")
    report = run_comparison(str(tmp_path / "mine.yaml"), copy, only=["One", "Half"])
    for seed in (0, 1):
        said = f"Half, seed {seed}, was to have as many demonstrations as One, but has 0.75x."
        assert said in report.read_text()


def test_why_cells_failed_is_told_also_when_there_is_nothing_to_report(tmp_path):
    file = comparison(
        tmp_path, "  One: {recipe: sft, set: {task: {use: jsonl, path: none.jsonl}}}\n"
    )
    with pytest.raises(RunError, match=r"failed: One / seed 0: .*none.jsonl.*\n.*\nno report: "):
        run_comparison(file, tmp_path / "out")


def test_a_dry_run_lists_cells_and_runs_nothing(tmp_path, capsys):
    file = comparison(tmp_path, METHODS)
    assert run_comparison(file, tmp_path / "out", dry_run=True) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[0] == (
        "One / seed 0: to run: 2 steps x 4 prompts x 1 trajectory of at most 12 tokens; "
        "no run to measure the time by"
    )
    assert lines[-2].startswith("Half / seed 1: to run: at most 9 steps x 2 prompts x 1")
    assert "as many demonstrations as One" in lines[-2]
    assert lines[-1] == "8 cells, 8 of them to run; no time is known of 8"
    assert not (tmp_path / "out").exists()


def test_a_dry_run_knows_what_is_done_and_measures_the_rest_by_it(finished, tmp_path, capsys):
    file, out, _ = finished
    run_comparison(file, out, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "One / seed 0: done: 2 steps x 4 prompts x 1 trajectory of at most 12 tokens"
    )
    assert lines[-2].startswith("Half / seed 1: done: at most 9 steps x 2 prompts")
    assert sum(": done" in line for line in lines) == 6
    assert lines[-1] == "8 cells, 2 of them to run; no time is known of 2"
    run_comparison(file, out, seeds=[1, 2], only=["One"], dry_run=True)
    _, new, total = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"One / seed 2: to run: .*; about \d+ s, as measured in seeds 0, 1", new)
    assert "2 cells, 1 of them to run; about" in total
    (tmp_path / "mine.yaml").write_text(
        Path(file).read_text().replace("One: sft", "One: {recipe: sft, set: {steps: 3}}")
    )
    run_comparison(str(tmp_path / "mine.yaml"), out, only=["One"], dry_run=True)
    assert "One / seed 0: changed, to run: 3 steps" in capsys.readouterr().out


def test_cut_off_files_of_a_finished_cell_stop_neither_matching_nor_the_summary(finished, tmp_path):
    file, out, _ = finished
    copy = shutil.copytree(out, tmp_path / "out")
    one, half = (
        next(c for c in cells(load_comparison(file), copy) if c.label == label)
        for label in ("One", "Half")
    )
    text = one.folder.metrics.read_text()
    one.folder.metrics.write_text(text[: text.rindex('"spent/demonstrations"')])
    said = []
    assert spent(one.folder, "demonstrations", said) in (4.0, 8.0)
    assert "cut off" in said[0]
    half.folder.metrics.unlink()
    one.folder.manifest.write_text('{"start": "fre')
    assert state_of(one) == "done"
    results = compared(find_cells([copy]))
    print_summary(results)
    assert write_report(results, tmp_path / "report").exists()


def test_what_was_not_measured_is_a_dash_in_the_summary(finished, tmp_path, capsys):
    file, out, _ = finished
    copy = shutil.copytree(out, tmp_path / "out")
    for cell in cells(load_comparison(file), copy, only=["One"]):
        shutil.rmtree(cell.folder.path / "evaluation")
    print_summary(compared(find_cells([copy])))
    said = capsys.readouterr().out
    assert re.search(r"One +(— +)+8\b", said) and re.search(r"Half +\d", said)


def test_the_summary_says_what_the_report_says(finished, capsys):
    _, out, _ = finished
    results = compared(find_cells([out]))
    print_summary(results)
    said = capsys.readouterr().out
    metric = results.evidence.main
    for score in (s for s in results.final if s.metric == metric and s.benchmark == "all"):
        assert re.search(rf"{score.label} +{100 * score.own.mean:.1f} ", said)


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """Runs of two methods with one seed that wrote down every group."""
    out = tmp_path_factory.mktemp("runs")
    told = "observers=[jsonl, {use: trajectories, every: 1, groups: 4}]"
    for method in ("critique_grpo", "grpo"):
        train_recipe(method, [*TINY, "steps=2", told], out=out / method, quiet=True)
    return out


def test_critiques_of_a_real_run_are_in_the_reports_browser(trajectories):
    browser = training_samples(find_cells([trajectories / "critique_grpo"]).read())
    answers = [a for item in browser.items for method in item["methods"] for a in method["answers"]]
    told = {a["kind"]: a.get("critique") for a in answers}
    assert told["policy"][0].startswith(
        "indicative_with_answer: The answer is incorrect: it should"
    )
    assert "refinement" in told and not told["refinement"]


def test_methods_with_one_seed_see_the_same_prompts_in_the_same_order(trajectories):
    seen = []
    for method in ("critique_grpo", "grpo"):
        lines = (trajectories / method / "trajectories.jsonl").read_text().splitlines()
        shown = [json.loads(line) for line in lines]
        seen.append(list(dict.fromkeys((row["step"], row["prompt"]) for row in shown)))
    assert seen[0] == seen[1] and len(seen[0]) == 8
