"""Released inputs as trajectories, and the loss and gradient of a composed rule over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from didact.algorithms.average import Average, Constant
from didact.algorithms.rules import Bound, Sum, Term
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.where import Where


class Compose:
    """What the golden tests share. Rows end where their mask ends; live columns keep garbage."""

    @staticmethod
    def golden(name: str):
        return json.loads((Path(__file__).parents[2] / "golden" / name).read_text())

    @staticmethod
    def rows(
        mask: Sequence[Sequence[float]],
        *,
        prompts: Sequence[str] | None = None,
        origins: Sequence[str] | None = None,
        signals: Mapping[str, Sequence[float]] | None = None,
        columns: Mapping[str, Sequence[Sequence[float]] | Tensor] | None = None,
    ) -> Batch:
        """One trajectory per row, with a prompt of one token."""
        made = []
        for at, row in enumerate(mask):
            length = int(sum(row))
            name = prompts[at] if prompts else f"p{at}"
            made.append(
                Trajectory(
                    prompt=Prompt(name, torch.tensor([1]), Problem(name, name)),
                    tokens=torch.ones(length, dtype=torch.int64),
                    trainable=torch.ones(length, dtype=torch.bool),
                    origin=origins[at] if origins else "policy",
                    signals={key: float(v[at]) for key, v in (signals or {}).items()},
                    columns={
                        key: torch.as_tensor(v[at], dtype=torch.float64)[:length]
                        for key, v in (columns or {}).items()
                    },
                )
            )
        return Batch(tuple(made))

    @staticmethod
    def term(
        loss: Callable[..., Tensor],
        label: str = "loss",
        *,
        weight=1.0,
        where: Mapping[str, object] | None = None,
        times: Sequence[Bound] = (),
        select: Sequence[Bound] = (),
        average: Average | float = "tokens",
        batch_average: bool = False,
        tokens: Mapping[str, float] | None = None,
        bind: Mapping[str, str] | None = None,
        **settings: object,
    ) -> Term:
        """A term as a recipe writes it; a number for `average` is the total that divides."""
        return Term(
            label,
            Bound(loss, settings, bind or {}),
            weight=weight,
            where=Where.model_validate(where or {}),
            tokens=tokens or {},
            times=times,
            select=select,
            average=Constant(total=average) if isinstance(average, float) else average,
            batch_average=batch_average,
        )

    @staticmethod
    def loss(
        terms: Sequence[Term], batch: Batch, live: Mapping[str, Tensor], step: int = 0
    ) -> Mapping[str, Tensor]:
        """Values by label over the mini-batch; row by row must give the same."""
        bound = Sum(terms).over(batch, step)
        whole = bound(batch, live)
        for label, value in whole.items():
            parts = [
                bound(batch.take([at]), {k: v[[at]] for k, v in live.items()})[label]
                for at in range(len(batch))
            ]
            torch.testing.assert_close(sum(parts), value, rtol=1e-10, atol=1e-12)
        return whole

    @classmethod
    def agrees(
        cls,
        terms: Sequence[Term],
        batch: Batch,
        live: Mapping[str, Tensor],
        value: float,
        gradient: Sequence[Sequence[float]] | None = None,
        *,
        atol: float = 1e-7,
        step: int = 0,
    ) -> Mapping[str, float]:
        """Assert value, and gradient with respect to the live log-probabilities."""
        values = cls.loss(terms, batch, live, step)
        total = sum(values.values())
        assert float(total.detach()) == pytest.approx(value, abs=atol, rel=0)
        if gradient is not None:
            (got,) = torch.autograd.grad(total, live["logprobs"], retain_graph=True)
            wanted = torch.tensor(gradient, dtype=torch.float64)
            torch.testing.assert_close(got, wanted, rtol=0, atol=atol)
        return {label: float(v.detach()) for label, v in values.items()}

    @staticmethod
    def leaf(value) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, requires_grad=True)

    @staticmethod
    def first(rows: Sequence[Sequence[float]]) -> list[float]:
        """The scalar a released function had spread over the tokens of each row."""
        return [row[0] for row in rows]


@pytest.fixture(scope="session")
def compose() -> type[Compose]:
    return Compose
