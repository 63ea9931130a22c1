"""Every benchmark's answers verify against themselves, and neighbours' do not; skipped without."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from didact.rewards.match import numeric_match
from didact.rewards.math_verify import MathVerify

BENCHMARKS = Path(__file__).parents[2].parent / "shared" / "data" / "benchmarks"


def rows(name):
    path = BENCHMARKS / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {name}.jsonl beside this checkout")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def alone():
    """math-verify by itself, so that equal spelling does not make the test trivial."""
    made = MathVerify(workers=2, seconds=20.0, compare="math_verify")
    yield made
    made.close()


@pytest.mark.parametrize(
    "name", ["math500", "minerva_math", "gsm8k_test", "amc_83", "amc23_40", "olympiadbench"]
)
def test_golds_verify_against_themselves(alone, response, name):
    cases = rows(name)
    values = alone([response(rf"so \boxed{{{r['answer']}}}.", r["answer"]) for r in cases])
    failing = [r["answer"] for r, value in zip(cases, values, strict=True) if value != 1.0]
    assert failing == []


@pytest.mark.parametrize("name", ["math500", "gsm8k_test"])
def test_the_solutions_of_the_data_reach_their_answers(response, name):
    grader = MathVerify(workers=2, seconds=20.0)
    cases = rows(name)
    values = grader([response(r["solution"], r["answer"]) for r in cases])
    grader.close()
    assert values == [1.0] * len(cases)


def test_e_notation_equals_latex_notation(alone, response):
    cases = [r for r in rows("minerva_math") if "answer_latex" in r]
    said = [response(rf"\boxed{{{r['answer_latex']}}}", r["answer"]) for r in cases]
    assert alone(said) == [1.0] * len(cases)


def test_an_answer_to_another_problem_is_wrong(alone, response):
    cases = rows("math500")
    pairs = list(pairwise(cases))
    values = alone([response(rf"\boxed{{{a['answer']}}}", b["answer"]) for a, b in pairs])
    accepted = [
        (a["answer"], b["answer"])
        for (a, b), value in zip(pairs, values, strict=True)
        if value != 0.0 and a["answer"] != b["answer"]
    ]
    # x=5 for 5 is math-verify's reading of an assignment
    assert accepted in ([], [("5", "x=5")])


def test_numeric_match_reads_every_gsm8k_gold(response):
    cases = rows("gsm8k_test")
    values = [numeric_match(response(f"It is {r['answer']}.", r["answer"])) for r in cases]
    assert values == [1.0] * len(cases)
    solved = [numeric_match(response(r["solution"], r["answer"])) for r in cases]
    assert solved == [1.0] * len(cases)
