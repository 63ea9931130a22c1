"""Released cases as parameters, and the value and gradient of composed terms over their inputs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from didact.algorithms.average import Constant
from didact.algorithms.rules import Bound, Sum, Term
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory

GOLDEN = Path(__file__).parents[2] / "golden"
MISC = "verl_misc_losses.json"
TRL = ("grpo/", "bnpo/", "dr_grpo/", "dapo/", "cispo/", "sapo/", "luspo/", "vespo/")
FILES = {
    "verl_case": ("verl_policy_losses.json", ""),
    "trinity_case": ("trinity_losses.json", ""),
    "trl_case": ("trl_grpo_losses.json", TRL),
    "mismatch_case": ("trl_grpo_losses.json", "grpo/vllm_is"),
    "nft_case": ("nft_official.json", "nft/loss"),
    "rover_case": ("rover_official.json", "rover/update"),
    "repo_case": ("other_repos_losses.json", ""),
    "paper_case": ("paper_formula_vectors_losses.json", "kimi/"),
    "consistency_case": ("paper_formula_vectors_losses.json", "rec/"),
    "kl_case": (MISC, "kl_penalty"),
    "average_case": (MISC, "agg_loss"),
    "entropy_case": (MISC, "entropy"),
    "value_case": (MISC, "value_loss"),
    "weight_case": (MISC, "tis"),
    "rejection_case": (MISC, "rejection"),
}


def pytest_generate_tests(metafunc):
    """A test that names one of these arguments runs for every case whose name begins so."""
    for argument in FILES.keys() & set(metafunc.fixturenames):
        name, prefix = FILES[argument]
        cases = [case for case in _cases(name) if case["case"].startswith(prefix)]
        ids = [f"{case['case']}-{case['seed']}-{at}" for at, case in enumerate(cases)]
        metafunc.parametrize(argument, cases, ids=ids)


@cache
def _cases(name):
    data = json.loads((GOLDEN / "update_rules" / name).read_text())

    def resolve(value):
        is_name = isinstance(value, str) and value.startswith("$")
        return data["shared"][value[1:]] if is_name else value

    for case in data["cases"]:
        for part in ("inputs", "outputs"):
            case[part] = {key: resolve(value) for key, value in case[part].items()}
    return data["cases"]


class Compose:
    """Terms over rows that keep the released garbage outside of their mask."""

    @staticmethod
    def term(
        loss, *, weight=1.0, times=(), select=(), average="tokens", bind=None, label="t", **settings
    ):
        """A number for `average` is the total that divides."""
        how = Constant(total=average) if isinstance(average, int | float) else average
        bound = Bound(loss, settings, bind or {})
        return Term(label, bound, weight=weight, times=times, select=select, average=how)

    @staticmethod
    def batch(mask, columns):
        """One trajectory per row, of the padded length; a scalar per row becomes a column."""
        mask = torch.as_tensor(mask).bool()
        rows = []
        for at, inside in enumerate(mask):
            here = {}
            for name, values in columns.items():
                value = torch.as_tensor(values, dtype=torch.float64)[at]
                here[name] = value.expand(len(inside)).clone() if value.dim() == 0 else value
            rows.append(
                Trajectory(
                    prompt=Prompt(f"p{at}", torch.tensor([1]), Problem(f"p{at}", "q")),
                    tokens=torch.ones(len(inside), dtype=torch.int64),
                    trainable=inside,
                    origin="policy",
                    columns=here,
                )
            )
        return Batch(tuple(rows))

    @classmethod
    def run(cls, terms, mask, live, leaf="logprobs", **columns):
        """Value and gradient over the mini-batch; row by row must give the same."""
        batch = cls.batch(mask, columns)
        live = {name: torch.as_tensor(v, dtype=torch.float64) for name, v in live.items()}
        live[leaf] = live[leaf].clone().requires_grad_(True)
        bound = Sum([Term(f"{at}", **_parts(term)) for at, term in enumerate(terms)]).over(batch, 0)
        value = sum(bound(batch, live).values())
        pieces = [
            sum(bound(batch.take([at]), {k: v[[at]] for k, v in live.items()}).values())
            for at in range(len(batch))
        ]
        torch.testing.assert_close(sum(pieces), value, rtol=1e-10, atol=1e-12)
        (gradient,) = torch.autograd.grad(value, live[leaf])
        return value.detach(), gradient

    @classmethod
    def agrees(cls, terms, mask, live, wanted, gradient=None, *, atol=1e-7, times=1.0, **columns):
        """`times` undoes a constant by which the framework's denominator differs."""
        value, got = cls.run(terms, mask, live, **columns)
        assert float(value * times) == pytest.approx(wanted, abs=atol, rel=0)
        if gradient is not None:
            expected = torch.tensor(gradient, dtype=torch.float64)
            torch.testing.assert_close(got * times, expected, rtol=0, atol=atol)

    @staticmethod
    def golden(name):
        return json.loads((GOLDEN / name).read_text())


def _parts(term):
    return {name: getattr(term, name) for name in ("loss", "weight", "times", "select", "average")}


@pytest.fixture(scope="session")
def compose():
    return Compose
