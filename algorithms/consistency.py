"""Responses of one group compared with each other in the loss: the exact pairwise consistency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from didact.algorithms.pairs import fresh_number
from didact.algorithms.tensors import masked_sum
from didact.core.batch import Batch, together
from didact.core.protocols import BoundRule, Names, Run
from didact.core.ranges import NonNegative
from didact.core.types import Group


@dataclass(frozen=True)
class Unite:
    """Write the signal `pair` on all members of a group: one number, and no other group's.

    Rows that share it are never parted by mini-batches, micro-batches or ranks, so that a rule such
    as `consistency` sees the whole group at once. Draw whole groups from a pool that waits.
    """

    @property
    def needs(self) -> Names:
        return frozenset({"members"})

    @property
    def adds(self) -> Names:
        return frozenset({"pair"})

    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]:
        return [self._united(group, run) for group in groups]

    def _united(self, group: Group, run: Run) -> Group:
        number = fresh_number(run, group.prompt)
        return group.each(lambda member: member.with_signals(pair=number))


@dataclass(frozen=True)
class Consistency:
    """Mean over groups of sum_{i<j} (a_i - a_j)^2 / K^2 with a = R - tau log(pi / pi_old).

    The surrogate of group-relative REINFORCE, arXiv:2509.24203: the policy that solves
    max E[R] - tau KL(pi || pi_old) has the same a for all responses to a prompt. pi is of the
    whole sequence. It is the population variance of a within the group, and at pi = pi_old its
    gradient is 2 tau / K times that of -sum (R - mean) log pi. Formula of the paper; no code was
    released. Reads the signal `pair`, which the stage `unite` writes.

    Attributes:
        tau: weight of the KL term, in units of the reward per nat.
    """

    tau: NonNegative = 0.1

    @property
    def needs(self) -> Names:
        return frozenset({"logprobs", "old_logprobs", "reward", "pair"})

    @property
    def ahead(self) -> Names:
        return frozenset()

    def over(self, batch: Batch, step: int) -> BoundRule:
        """The loss of a part is the sum over its groups, over the number of groups of `batch`."""
        count = max(len(together(batch.rows)), 1)

        def loss(part: Batch, live: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            new = live["logprobs"]
            old = live["old_logprobs"] if "old_logprobs" in live else part.stored("old_logprobs")
            drift = masked_sum(new - old.to(new).detach(), part.mask.to(new.device))
            level = part.stored("reward").to(new) - self.tau * drift
            spreads = [level[unit].var(unbiased=False) for unit in together(part.rows)]
            return {"consistency": torch.stack(spreads).sum() / count}

        return loss

    def idle(self, batch: Batch) -> Sequence[bool]:
        """None: a group of equal rewards is still pulled towards the old policy."""
        return [False] * len(batch)
