"""The report says what was measured, in four formats, without touching the network."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from didact.core.report import build_report, find_cells
from didact.core.report.comparison import compared
from didact.core.report.curves import POINTS
from didact.core.report.page import embedded


@pytest.fixture(scope="module")
def built(comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert build_report(comparison, out, title="Ours <&> theirs") == out / "report.html"
    return out


@pytest.fixture(scope="module")
def found(comparison):
    return compared(find_cells([comparison]))


@pytest.fixture(scope="module")
def rows(built):
    with (built / "report.csv").open() as file:
        return list(csv.DictReader(file))


def inline(page):
    text = re.search(r'<script type="application/json" id=data>(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def own_markup(page):
    """The page without the chart library."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def test_the_four_formats_are_written(built):
    names = {file.name for file in built.rglob("*") if file.is_file()}
    assert {"report.html", "report.md", "report.csv"} <= names
    assert {"final.png", "by-bin.png", "by-level.png", "pass.png", "curves.png"} <= names


def test_the_page_fetches_nothing(built):
    page = (built / "report.html").read_text()
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', own_markup(page))
    assert "default-src 'none'" in page
    assert page.count("<script>") == 2


def test_texts_of_users_and_models_are_never_markup(built):
    page = (built / "report.html").read_text()
    assert "<title>Ours &lt;&amp;&gt; theirs</title>" in page
    assert "<b>Answer</b>" not in own_markup(page)
    assert page.count("</script>") == page.count("<script")
    texts = json.dumps(inline(page)["browsers"])
    assert "<b>Answer</b>" in texts
    assert "</script> no" in texts


def test_embedded_data_holds_no_markup_and_no_nan():
    text = embedded({"a": "</script><!--", "b": float("nan"), "c": [float("inf"), "\u2028"]})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": None, "c": [None, "\u2028"]}


def test_means_are_those_of_the_metric_files(comparison, rows):
    means = []
    for seed in "012":
        file = comparison / "cells" / "relift" / seed / "metrics.jsonl"
        means.append(json.loads(file.read_text().splitlines()[-1])["eval/avg@8"])
    row = next(r for r in rows if r["section"] == "final" and r["method"] == "relift"
               and r["metric"] == "avg@8")  # fmt: skip
    assert float(row["value"]) == pytest.approx(np.mean(means), abs=1e-9)
    assert row["seeds"] == "3"
    assert row["questions"] == "80"


def test_accuracy_by_level_is_that_of_the_metric_files(comparison, rows):
    means = []
    for seed in "012":
        file = comparison / "cells" / "grpo" / seed / "metrics.jsonl"
        means.append(json.loads(file.read_text().splitlines()[-1])["eval/avg@8/level=2"])
    row = next(r for r in rows if r["part"] == "level=2" and r["method"] == "grpo")
    assert float(row["value"]) == pytest.approx(np.mean(means), abs=1e-9)


def test_differences_are_of_the_means_and_corrected_over_the_metric(rows):
    final = [row for row in rows if row["section"] == "final" and row["metric"] == "avg@8"]
    value = {row["method"]: float(row["value"]) for row in final}
    row = next(row for row in final if row["method"] == "relift")
    assert float(row["difference"]) == pytest.approx(value["relift"] - value["grpo"], abs=1e-9)
    assert row["p"] == str(max(float(row["p_questions"]), float(row["p_seeds"])))
    assert row["p_holm"] == row["p"]  # one test of this metric


def test_a_method_that_learns_the_hardest_questions_is_found_better_there(found):
    hardest = {s.label: s for s in found.parts["bin"] if s.part == "bin=hardest"}
    assert hardest["grpo"].own.mean < 0.1 < 0.4 < hardest["relift"].own.mean
    assert hardest["relift"].against.estimate.low > 0
    assert any("relift is better than grpo in avg@8" in words for words in found.words)


def test_pass_at_one_is_the_average_and_pass_rises_with_k(found):
    for label in found.labels:
        values = [s.own.mean for s in found.passes if s.label == label]
        average = next(s for s in found.final if s.label == label and s.metric == "avg@8")
        assert values[0] == pytest.approx(average.own.mean, abs=1e-12)
        assert values == sorted(values)


def test_costs_are_sums_over_steps_and_demonstrations_over_phases(found):
    cost = {cost.label: cost for cost in found.costs}
    assert cost["relift"].totals["steps"] == 20
    assert cost["relift"].totals["demonstrations"] == 20 * 8
    assert cost["grpo"].totals["demonstrations"] == 0
    assert cost["relift"].share == pytest.approx(8 / (128 + 8))
    assert cost["grpo"].totals["generated tokens"] == 20 * 128 * 24
    stages = cost["grpo"].stages
    assert sum(stages.values()) == pytest.approx(cost["grpo"].totals["seconds"])
    assert stages["other"] == pytest.approx(20 * 0.02)


def test_peak_memory_is_the_highest_and_says_whose(built, found, rows):
    assert {cost.memory["process"] for cost in found.costs} == {0.75}
    assert "| peak process memory, GiB |" in (built / "report.md").read_text()
    (row, _) = [row for row in rows if row["metric"] == "peak process memory GiB"]
    assert row["value"] == "0.75"


def test_runs_that_shared_the_machine_are_told_of(comparison, found):
    shared = replace(find_cells([comparison]), at_once=3)
    assert any("Up to 3 runs at once shared a machine" in said for said in compared(shared).caveats)
    assert not any("shared a machine" in said for said in found.caveats)


def test_budgets_that_differ_are_flagged(found):
    assert any("Budgets differ in trained tokens; against grpo: relift 1.08x" in c
               for c in found.caveats)  # fmt: skip
    assert not any("differ in steps" in c for c in found.caveats)


def test_overlap_counts_add_up(found):
    over = found.overlap
    both = over.count("relift") - over.missing("relift", "grpo")
    assert both == over.by_all == over.count("grpo") - over.missing("grpo", "relift")
    assert over.only("relift") == over.missing("relift", "grpo")
    assert over.by_none == 80 - both - over.only("relift") - over.only("grpo")


def test_recipe_differences_name_the_setting(found):
    assert ("phases.sft.take.origin", "—", "demonstration") in found.diffs["relift"]
    assert all(not path.startswith("seed") for path, _, _ in found.diffs["relift"])


def test_curves_have_every_budget_axis_and_stay_short(made, tmp_path):
    made.make_run(tmp_path / "long", "grpo", made.Kind(), steps=1000, questions=4, every=500)
    shown = compared(find_cells([tmp_path / "long"])).curves
    run = shown.runs[0]
    assert shown.axes == ("steps", "generated tokens", "trained tokens", "seconds")
    assert len(run["train"]["x"]["steps"]) <= POINTS
    assert run["train"]["x"]["generated tokens"][-1] == pytest.approx(1000 * 128 * 24, rel=1e-4)
    assert run["evaluation"]["x"]["generated tokens"] == pytest.approx(
        [0, 500 * 128 * 24, 1000 * 128 * 24], rel=1e-4
    )


def test_the_browser_shows_all_methods_side_by_side_with_reward_and_critique(built, found):
    data = inline((built / "report.html").read_text())
    item = data["browsers"]["answers"][0]
    assert [method["label"] for method in item["methods"]] == ["grpo", "relift"]
    assert item["methods"][0]["answers"][0]["kind"] == "greedy"
    assert item["methods"][0]["answers"][0]["reward"] in (0, 1)
    training = data["browsers"]["training"][0]["methods"][0]["answers"]
    assert training[1]["critique"] == ["critic: Check <i>step</i> two."]
    assert training[7]["truncated"] is True


def test_long_answers_and_many_questions_are_cut_and_said_so(made, tmp_path):
    kind = made.Kind(words="very " * 600)
    made.make_run(tmp_path / "run", "grpo", kind, steps=2, questions=300, every=2)
    page = build_report(tmp_path / "run", tmp_path / "report")
    text = page.read_text()
    shown = inline(text)["browsers"]["answers"]
    assert len(shown) <= 120
    assert f"{len(shown)} of 300 questions" in text
    assert "more characters]" in shown[0]["methods"][0]["answers"][0]["text"]
    assert page.stat().st_size < 10_000_000


def test_every_chart_has_a_text_alternative(built):
    page = own_markup((built / "report.html").read_text())
    charts = re.findall(r"<figure class=needs-script data-chart=(.*?)</figure>(.{0,18})", page)
    assert len(charts) == 4
    for chart, after in charts:
        assert re.search(r'class=plot role=img aria-label="Chart: [^"]{10,}"', chart)
        assert after.startswith("<div class=scroll")
    curves = re.findall(r"<figure data-(?:metric|free)(.*?)</figure>", page)
    assert len(curves) >= 9
    assert all("<details>" in chart for chart in curves)  # the script writes the table into it
    assert "Where the curves end" in page


def test_one_seed_is_said_to_leave_seed_variance_unknown(run, tmp_path):
    build_report(run, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Seed variance is unknown for grpo" in text
    assert "Only 40 questions" in text


def test_a_report_without_any_finished_run_still_shows_the_curves(run, tmp_path):
    import shutil

    shutil.rmtree(run / "final")
    max((run / "evaluation").glob("*")).unlink()
    page = build_report(run, tmp_path / "report").read_text()
    assert "No run has a usable final evaluation" in page
    assert inline(page)["curves"]["runs"][0]["train"]["y"]["reward/policy"]


def test_benchmarks_of_a_mixture_are_tested_one_by_one(comparison, tmp_path):
    import shutil

    folder = shutil.copytree(comparison, tmp_path / "copy")
    for file in folder.rglob("step-*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for at, row in enumerate(rows):
            row["metadata"]["task"] = "even" if at % 2 == 0 else "odd"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compared(find_cells([folder]))
    tested = [s for s in found.final if s.metric == "avg@8" and s.against is not None]
    assert [s.benchmark for s in tested] == ["all", "even", "odd"]
    assert all(s.p_holm >= s.against.p for s in tested)
    smallest = min(tested, key=lambda s: s.against.p)
    assert smallest.p_holm == pytest.approx(3 * smallest.against.p)


def test_the_same_input_gives_the_same_report(comparison, built, tmp_path):
    build_report(comparison, tmp_path, title="Ours <&> theirs")
    for name in ("report.html", "report.md", "report.csv"):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()


def test_an_interval_without_width_is_explained(made, tmp_path):
    never = made.Kind((-1.0, -1.0, -1.0, -1.0))
    build_report(
        made.make_run(tmp_path / "run", "none", never, steps=4, questions=20, drift=0.0),
        tmp_path / "report",
    )
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| run | 1 | 0.0 | 0.0 to 0.0 |" in text
    assert "means that all answers were alike, not certainty" in text


def test_totals_that_a_run_wrote_survive_lost_lines(run):
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "train":
            row["spent/generated_tokens"] = 3072.0 * row["step"]
    kept = [row for row in rows if row["step"] not in (3, 4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    (cost,) = compared(find_cells([run])).costs
    assert cost.totals["generated tokens"] == 20 * 3072
    assert cost.totals["steps"] == 18  # summed up, and reported as too low
