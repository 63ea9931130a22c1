"""Stages that decide how many answers a prompt gets, and which of them are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from didact.algorithms.allocation import (
    ada_fallback,
    ada_kept,
    dars_extra,
    gvm_shares,
    whole_numbers,
)
from didact.core.bind import adds
from didact.core.errors import RecipeError
from didact.core.protocols import Names, Run
from didact.core.ranges import Count, NonNegative, Share
from didact.core.types import Group, Trajectory

ALLOTTED = "allotted"
"""The group's signal that `rollout: {times: allotted}` reads."""


@dataclass(frozen=True)
class Balance:
    """Keep so many members of each group, both successes and failures; first come, first kept.

    The down-sampling of Reinforce-Ada, arXiv:2510.04996 (RLHFlow/Reinforce-Ada @ 05be6058): half of
    them successes if there are, the rest failures, then whichever side has more left. Group signals
    (`success_rate`, `positives`, `negatives`) stay those of all members. Counted in `run.metrics`:
    `balance/dropped`.

    Attributes:
        keep: most members of a group.
        successes: "half" of them, or as large a share as was "sampled", at least one of either side
            where both exist (what the release falls back to under its positive-focused rule).
    """

    keep: Count
    successes: Literal["half", "sampled"] = "half"

    @property
    def needs(self) -> Names:
        return frozenset({"success"})

    @property
    def adds(self) -> Names:
        return frozenset()

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        done = [replace(group, members=self._kept(group)) for group in groups]
        before, after = (sum(len(g.members) for g in some) for some in (groups, done))
        run.metrics["balance/dropped"] = run.metrics.get("balance/dropped", 0.0) + before - after
        return done

    def _kept(self, group: Group) -> tuple[Trajectory, ...]:
        sides = [_read(member, "success") > 0 for member in group.members]
        split = ada_kept if self.successes == "half" else ada_fallback
        good, bad = split(sum(sides), len(sides) - sum(sides), keep=self.keep)
        left = {True: good, False: bad}
        kept = []
        for member, side in zip(group.members, sides, strict=True):
            if left[side]:
                left[side] -= 1
                kept.append(member)
        return tuple(kept)


@dataclass(frozen=True)
class AllotByAccuracy:
    """Write `allotted`: how many further answers DARS gives a prompt. arXiv:2508.13755.

    By the share of successes among the answers so far, which are its n: `dars_extra`, as
    yangzhch6/DARS @ 9b21b714. Prompts solved at least half of the time get none.

    Attributes:
        most: answers of a prompt in all, the first ones included.
        schedule: the "equal" treatment, or "weighted" by hardness.
        standardised: the form for advantages that are divided by their standard deviation.
    """

    most: Count = 32
    schedule: Literal["equal", "weighted"] = "equal"
    standardised: bool = False

    @property
    def needs(self) -> Names:
        return frozenset({"success_rate", "positives", "negatives"})

    @property
    def adds(self) -> Names:
        return frozenset({ALLOTTED})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        return [_allotted(group, self._extra(group)) for group in groups]

    def _extra(self, group: Group) -> int:
        if not group.members:
            return 0
        answers = int(_read(group, "positives") + _read(group, "negatives"))
        return max(
            dars_extra(
                _read(group, "success_rate"),
                n=answers,
                most=self.most,
                schedule=self.schedule,
                standardised=self.standardised,
            ),
            0,
        )


@dataclass(frozen=True)
class AllotByGradient:
    """Write `allotted`: how many answers GVM gives a prompt, after a pilot. arXiv:2505.02391.

    Shares proportional to G / sqrt(p + alpha / p^(beta-1)), with p the accept rate of the pilot and
    G the mean gradient norm of its accepted answers, as whole numbers of a fixed sum
    (`gvm_shares`, `whole_numbers`, as RLHFlow/GVM @ d640a754). The release takes the norm of the
    gradient by the input embeddings; here it is the signal that `norm` names. A step in which the
    pilot accepted nothing allots nothing.

    Attributes:
        per_prompt: answers a prompt gets on average.
        norm: the members' signal that is their gradient norm; of successes only.
        alpha, beta: of the share.
        accepted_at_most: prompts above this accept rate get none; 0: all take part.
        least_expected: prompts with fewer expected successes get none; 0: all take part.
    """

    per_prompt: Count = 8
    norm: str = "gradient_norm"
    alpha: NonNegative = 1e-3
    beta: float = 2.0
    accepted_at_most: Share = 0.0
    least_expected: NonNegative = 0.0

    @property
    def needs(self) -> Names:
        return frozenset({"success", "success_rate", self.norm})

    @property
    def adds(self) -> Names:
        return frozenset({ALLOTTED})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        total = self.per_prompt * len(groups)
        shares = gvm_shares(
            [self._gradient(group) for group in groups],
            [_read(group, "success_rate") if group.members else 0.0 for group in groups],
            alpha=self.alpha,
            beta=self.beta,
            accepted_at_most=self.accepted_at_most,
            least_expected=self.least_expected,
            total=total,
        )
        counts = whole_numbers(shares, total)
        run.metrics["allotted/most"] = float(max(counts, default=0))
        run.metrics["allotted/none"] = float(sum(count == 0 for count in counts))
        return [_allotted(group, count) for group, count in zip(groups, counts, strict=True)]

    def _gradient(self, group: Group) -> float:
        norms = [_read(m, self.norm) for m in group.members if _read(m, "success") > 0]
        return sum(norms) / len(norms) if norms else 0.0


@adds("gradient_norm")
def logit_gradient_norm(
    mask: Tensor, old_logprobs: Tensor, old_collision: Tensor
) -> dict[str, Tensor]:
    """sqrt(sum_t |onehot - pi_t|^2): norm of the gradient of log p(response) by its logits, [N].

    1 - 2 pi(y_t) + sum_v pi(v)^2 per token, from two readouts and without a backward pass: our
    stand-in for the norm by the input embeddings that GVM (arXiv:2505.02391) takes.

    Args:
        mask, old_logprobs, old_collision: [N, T].
    """
    energy = (1 - 2 * old_logprobs.exp() + old_collision).clamp(min=0) * mask
    return {"gradient_norm": energy.sum(1).sqrt()}


def _allotted(group: Group, count: int) -> Group:
    return replace(group, signals={**group.signals, ALLOTTED: float(count)})


def _read(item: Group | Trajectory, name: str) -> float:
    """A signal of a group or a member; to lack it is an error."""
    if name not in item.signals:
        what = f"a {item.origin} answer" if isinstance(item, Trajectory) else "the group"
        raise RecipeError(
            f"{what} of prompt '{item.prompt.id}' has no '{name}' (it has: "
            f"{', '.join(sorted(item.signals)) or 'none'}); put the stage that makes it before."
        )
    return item.signals[name]
