"""Preference pairs: the stage that makes them, and the rule that learns from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from didact.algorithms.shaping import first_pit
from didact.core.batch import Batch, together
from didact.core.errors import RecipeError
from didact.core.protocols import BoundRule, Names, Run
from didact.core.ranges import Count, NonNegative, Positive, Share
from didact.core.seeds import seed_of
from didact.core.types import Group, Prompt, Trajectory

NOTHING: Names = frozenset()


def fresh_number(run: Run, prompt: Prompt) -> float:
    """For the signal `pair`: a number that the run gives only once, however often a step asks."""
    key = (run.step, "pair", prompt.id)
    run.drawn[key] += 1
    name = seed_of(run.seed, *key, run.drawn[key])
    return float(name % 2**52)  # exact as a float


@dataclass(frozen=True)
class Pair:
    """Pair the best answers of a group with its worst; answers outside of a pair are dropped.

    The i-th highest reward is preferred to the i-th lowest, while it is higher by more than
    `margin`; of equals the earlier answer is the better. Signals: `pair`, a number that the two
    share and nobody else has; `preferred`, 1 or 0. Counted in `run.metrics`: `pair/made`,
    `pair/dropped` (answers).

    Attributes:
        most: pairs of a group.
        margin: least difference of the rewards, itself excluded.
        cut: a column of values of steps, such as `step_value`; the other answer then ends with the
            first step of lowest value, its first pit, as the per-step pairs of arXiv:2406.14532.
            Needs `step_end` too.
    """

    most: Count = 1
    margin: NonNegative = 0.0
    cut: str | None = None

    @property
    def needs(self) -> Names:
        return frozenset({"reward"}) | ({self.cut, "step_end"} if self.cut else NOTHING)

    @property
    def adds(self) -> Names:
        return frozenset({"pair", "preferred"})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        done = [replace(group, members=tuple(self._pairs(group, run))) for group in groups]
        made = sum(len(group.members) for group in done)
        run.metrics["pair/made"] = run.metrics.get("pair/made", 0.0) + made / 2
        dropped = sum(len(group.members) for group in groups) - made
        run.metrics["pair/dropped"] = run.metrics.get("pair/dropped", 0.0) + dropped
        return done

    def _pairs(self, group: Group, run: Run) -> Iterator[Trajectory]:
        ranked = sorted(group.members, key=lambda member: -member.signals["reward"])
        for at in range(min(self.most, len(ranked) // 2)):
            best, worst = ranked[at], ranked[-1 - at]
            if best.signals["reward"] - worst.signals["reward"] <= self.margin:
                return
            number = fresh_number(run, group.prompt)
            yield best.with_signals(pair=number, preferred=1.0)
            yield self._cut(worst, run).with_signals(pair=number, preferred=0.0)

    def _cut(self, worst: Trajectory, run: Run) -> Trajectory:
        if self.cut is None:
            return worst
        ends = worst.columns["step_end"].nonzero()[:, 0]
        pit = int(ends[first_pit(worst.columns[self.cut][ends])]) + 1
        tokens = worst.tokens[:pit]
        return replace(
            worst,
            tokens=tokens,
            trainable=worst.trainable[:pit],
            text=run.renderer.text(tokens),
            columns={name: column[:pit] for name, column in worst.columns.items()},
        )


@dataclass(frozen=True)
class Pairwise:
    """-log sigmoid(beta (m_preferred - m_other)), mean over pairs. DPO, arXiv:2305.18290 eq. 7.

    m is the log-ratio of the response to the reference model, summed over its loss tokens. Reads
    `logprobs`, `ref_logprobs`, and the signals that the stage `pair` writes; the two rows of a pair
    are never parted by micro-batches or ranks.

    Attributes:
        beta: inverse temperature.
        smoothing: probability that a label is wrong: the loss is (1 - smoothing) times that, plus
            smoothing times that of the pair the other way round (conservative DPO).
        mean: the log-ratio is the mean over loss tokens instead of the sum.
    """

    beta: Positive = 0.1
    smoothing: Share = 0.0
    mean: bool = False

    @property
    def needs(self) -> Names:
        return frozenset({"logprobs", "ref_logprobs", "pair", "preferred"})

    @property
    def ahead(self) -> Names:
        return NOTHING

    def over(self, batch: Batch, step: int) -> BoundRule:
        """The loss of a part is the sum over its pairs, over the number of pairs of `batch`."""
        count = len(_paired(batch)) if len(batch) else 1

        def loss(part: Batch, live: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            logprobs = live["logprobs"]
            mask = part.mask.to(logprobs.device)
            ratio = logprobs - part.stored("ref_logprobs").to(logprobs)
            margin = torch.where(mask, ratio, 0.0).sum(1)
            if self.mean:
                margin = margin / mask.sum(1).clamp(min=1)
            best, other = torch.tensor(_paired(part), device=logprobs.device).unbind(1)
            logit = self.beta * (margin[best] - margin[other])
            value = (1 - self.smoothing) * softplus(-logit) + self.smoothing * softplus(logit)
            return {"pairwise": value.sum() / count}

        return loss

    def idle(self, batch: Batch) -> Sequence[bool]:
        return [False] * len(batch)


def _paired(batch: Batch) -> list[tuple[int, int]]:
    """Positions of the preferred and the other row of every pair.

    Raises:
        RecipeError: a row without its partner, or with too many.
    """
    found = []
    for unit in together(batch.rows):
        rows = [batch.rows[at] for at in unit]
        order = sorted(unit, key=lambda at: -batch.rows[at].signals.get("preferred", 0.0))
        if sorted(row.signals.get("preferred", -1.0) for row in rows) != [0.0, 1.0]:
            raise RecipeError(
                f"rule 'pairwise': prompt '{rows[0].prompt.id}' has {len(rows)} row(s) of one pair "
                f"in a mini-batch, not a preferred and another one; make pairs with stage 'pair' "
                f"and draw whole pairs."
            )
        found.append((order[0], order[1]))
    return found
