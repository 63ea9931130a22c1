"""Evaluation: unbiased pass@k, base bins, breakdowns, and the distance from the start."""

import json
from itertools import combinations
from math import comb

import pytest
import torch
from conftest import TINY

from didact.configs.evaluate import evaluate_recipe
from didact.configs.resolve import checked
from didact.core.errors import RecipeError
from didact.core.evaluate import Answered, _aligned, base_bins, difficulty, measures, pass_at_k
from didact.core.types import Group, Problem, Prompt

EVALUATION = (
    "evaluation={task: {use: letters, split: test, size: 8}, samples: 4, ks: [1, 2], by: [level], "
    "bins: true, kl: true, every: 1}"
)


def answered(id: str, successes: tuple[float, ...], greedy: float | None = 1.0) -> Answered:
    return Answered(id, "q", "a", {"level": 1}, greedy, successes, ("x",), (3,), (1.0,), 0)


@pytest.mark.parametrize(("n", "correct", "k"), [(8, 0, 1), (8, 3, 2), (8, 8, 8), (5, 2, 4)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n, correct, k):
    # by brute force: draw k of n answers, the first `correct` of which are right
    hits = sum(any(at < correct for at in draw) for draw in combinations(range(n), k))
    assert pass_at_k(n, correct, k) == pytest.approx(hits / comb(n, k), abs=1e-12)


def test_pass_at_k_is_undefined_for_more_answers_than_there_are():
    with pytest.raises(ValueError, match="undefined"):
        pass_at_k(4, 1, 5)


def test_the_bins_have_the_edges_of_the_paper():
    rates = {
        1.0: "easy",
        0.75: "easy",
        0.625: "medium",
        0.375: "medium",
        0.25: "hard",
        0.125: "hard",
    }
    assert {rate: difficulty(rate) for rate in rates} == rates
    assert difficulty(0.0) == "hardest"
    assert base_bins([answered("p", (1.0, 0.0, 0.0, 0.0))]) == {"p": "hard"}


def test_measures_average_over_problems_not_over_answers():
    # 4 of 4 and 0 of 4: avg 0.5; pass@2 is 1 for one problem and 0 for the other
    items = [answered("p", (1.0,) * 4), answered("q", (0.0,) * 4, greedy=0.0)]
    found = measures(items, [1, 2])
    assert found["avg@4"] == found["pass@2"] == found["greedy"] == 0.5


def test_a_run_measures_its_start_and_every_evaluation_in_the_same_bins(run):
    folder = run(
        "sft", "steps=2", EVALUATION, "optimizers.main.lr=0.05", "optimizers.main.warmup=0"
    )
    bins = json.loads((folder / "bins.json").read_text())
    assert set(bins.values()) == {"hardest"}
    for step in (0, 1, 2):
        lines = (folder / "evaluation" / f"step-{step:06d}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["bin"] for row in rows] == ["hardest"] * 8
        assert {row["metadata"]["level"] for row in rows} == {1, 2, 3, 4}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if row["kind"] == "evaluation"]
    assert [row["step"] for row in found] == [0, 1, 2]
    assert found[0]["eval/kl_start"] == pytest.approx(0.0, abs=1e-6)
    assert found[2]["eval/kl_start"] > 0.05
    assert found[2]["eval/problems/level=1"] == 2


def test_a_checkpoint_is_as_far_from_the_start_as_the_run_was(run):
    learns = ("steps=2", EVALUATION, "optimizers.main.lr=0.05", "optimizers.main.warmup=0")
    folder = run("sft", *learns)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    last = [row for row in map(json.loads, lines) if row["kind"] == "evaluation"][-1]
    found = evaluate_recipe("sft", [*TINY, *learns], checkpoint=folder / "final")
    assert found["eval/kl_start"] == pytest.approx(last["eval/kl_start"], rel=0.5)


def test_an_answer_whose_reward_failed_is_left_out_and_counted_nowhere_else():
    # 3 of 4 answers are left, 2 of them right; the other problem has all four, none right
    items = [answered("p", (1.0, 1.0, 0.0)), answered("q", (0.0,) * 4, greedy=None)]
    found = measures(items, [4])
    assert found["avg@4"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["pass@4"] == 0.0  # of the one problem that has four answers
    assert found["greedy"] == 1.0


@pytest.mark.parametrize(
    "drawn", ["evaluation.sampling={temperature: 0.5}", "sampling.top_p=0.9", "sampling.top_k=5"]
)
def test_the_distance_from_the_start_is_refused_where_answers_are_of_another_distribution(drawn):
    with pytest.raises(RecipeError, match=r"evaluation\.kl: needs answers drawn by"):
        checked("sft", [*TINY, EVALUATION, drawn])
    checked("sft", [*TINY, EVALUATION, drawn, "evaluation.kl=false"])
    checked("sft", [*TINY, EVALUATION, "sampling.temperature=0.7"])


def test_success_of_a_score_inside_a_stage_is_that_of_the_evaluation(run):
    inner = "experience=[{fill: {groups: 4, rounds: 1, stages: [{rollout: {use: policy, n: 2}}, "
    folder = run(
        "grpo",
        "steps=1",
        EVALUATION,
        "rewards.short={use: linear_length, per: 100}",
        inner + "{score: {solved_by: short, solved_at: -9}}]}}, {advantage: group_norm}]",
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["success/policy"] for row in rows if row["kind"] == "train"] == [1.0]
    assert [row["eval/avg@4"] for row in rows if row["kind"] == "evaluation"] == [1.0, 1.0]


def test_a_checkpoint_is_broken_down_by_the_base_difficulty_of_its_run(run, capsys):
    folder = run("sft", "steps=1", EVALUATION)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (start, last) = [row for row in map(json.loads, lines) if row["kind"] == "evaluation"]
    again = evaluate_recipe("sft", [*TINY, EVALUATION], checkpoint=folder / "final")
    base = evaluate_recipe("sft", [*TINY, EVALUATION])
    for found, known in ((again, last), (base, start)):
        assert found.keys() == known.keys() - {"step", "kind"}
        assert found["eval/problems/bin=hardest"] == 8
    (folder / "bins.json").unlink()
    evaluate_recipe("sft", [*TINY, EVALUATION], checkpoint=folder / "final")
    assert "so nothing is broken down by base difficulty" in capsys.readouterr().err


def test_a_breakdown_by_a_key_that_no_problem_has_is_refused():
    with pytest.raises(RecipeError, match=r"no problem has metadata 'levle' \(has: .*level"):
        evaluate_recipe("sft", [*TINY, EVALUATION.replace("by: [level]", "by: [levle]")])


def test_copies_of_a_problem_have_answers_of_their_own_also_if_another_problem_has_none():
    asked = [Group(Prompt(id, torch.arange(2), Problem(id, "?"))) for id in ("a", "a", "b")]
    answered = [Group(group.prompt, signals={"at": at}) for at, group in enumerate(asked[:2])]
    assert [group.signals.get("at") for group in _aligned(asked, answered)] == [0, 1, None]
    assert [group.signals.get("at") for group in _aligned(asked, answered[1:])] == [1, None, None]


def test_copies_of_a_problem_are_in_one_bin_by_all_their_answers():
    items = [answered("p", (1.0, 1.0)), answered("p", (0.0, 0.0)), answered("q", ())]
    assert base_bins(items) == {"p": "medium"}
