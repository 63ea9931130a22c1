"""Hidden-state shaping of VERL (arXiv:2509.23808, hf618/VERL @ 3de68f16): rank as a bonus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from didact.algorithms.token_advantages import at_last_token
from didact.core.bind import adds
from didact.core.ranges import Share
from didact.core.ranks import effective_rank

Gate = Literal["acceleration", "even", "sum"]
"""Weight between rank and velocity: by the acceleration; a half each; both in full (ablations)."""


def rank_dynamics(hidden: Tensor, *, stride: int = 40) -> Tensor:
    """[acceleration, velocity, effective rank] of a response's hidden states [L, D].

    With the rank of the prefixes that end at tokens S, 2S, ... (length jS + 1), the velocity is the
    mean over j >= 2 of rank_j - mean(rank_1..j-1), the acceleration the mean difference of these.
    Both are 0 for responses too short to have them. 40 in the released script, 20 in its config.
    """
    whole = effective_rank(hidden)
    ranks = [effective_rank(hidden[: end + 1]) for end in range(stride, len(hidden), stride)]
    return path_dynamics(torch.stack(ranks) if ranks else hidden.new_zeros(0), whole)


def path_dynamics(path: Tensor, whole: Tensor) -> Tensor:
    """[acceleration, velocity, effective rank] of ranks of beginnings [J] and of the whole."""
    if len(path) < 2:
        return torch.stack([whole.new_zeros(()), whole.new_zeros(()), whole])
    before = path.cumsum(0)[:-1] / torch.arange(1, len(path), device=path.device)
    speed = path[1:] - before
    acceleration = speed.diff().mean() if len(speed) > 1 else whole.new_zeros(())
    return torch.stack([acceleration, speed.mean(), whole])


@adds("rank_acceleration", "rank_velocity", "effective_rank")
def rank_indicators(ranks: Tensor) -> dict[str, Tensor]:
    """The three indicators of `hidden_state_shaping`, each [N], from a readout such as `ranks40`.

    `read: {columns: [ranks40]}` and `{use: rank_indicators, bind: {ranks: ranks40}}`. The readout
    is taken from the last hidden states, one position before each response token; the release
    takes a layer that its config numbers, and at most the last 512 tokens.

    Args:
        ranks: [N, T], above 0 where one was taken: at S, 2S, … and at the last token.
    """
    found = []
    for row in ranks:
        places = row.nonzero()[:, 0]
        if not len(places):
            found.append(row.new_zeros(3))
            continue
        path = row[places[places % places[0].clamp(min=1) == 0]]
        found.append(path_dynamics(path, row[places[-1]]))
    table = torch.stack(found)
    return {
        "rank_acceleration": table[:, 0],
        "rank_velocity": table[:, 1],
        "effective_rank": table[:, 2],
    }


def rank_bonus(
    indicators: Tensor, baseline: Tensor, *, gain: float = 2.0, gate: Gate = "acceleration"
) -> Tensor:
    """Sum of weights x tanh(relative deviation from the baseline), [N].

    deviation = clip((x - mu) / (|mu| + 1e-8), -5, 5); gate b = sigmoid(gain x deviation of the
    acceleration); b goes to the rank, 1 - b to the velocity.

    Args:
        indicators: [N, 3], as `rank_dynamics`; baseline: mu, [3].
    """
    deviation = ((indicators - baseline) / (baseline.abs() + 1e-8)).clamp(-5, 5)
    _, velocity, rank = deviation.tanh().unbind(1)
    match gate:
        case "acceleration":
            share = (gain * deviation[:, 0]).sigmoid()
            return share * rank + (1 - share) * velocity
        case "even":
            return 0.5 * (rank + velocity)
        case "sum":
            return rank + velocity


def bonus_limited(advantages: Tensor, bonus: Tensor, *, kappa: float = 2.0) -> Tensor:
    """A + min(relu(bonus), |A| / kappa), elementwise: the bonus never flips a sign."""
    return advantages + torch.minimum(bonus.relu(), advantages.abs() / kappa)


class HiddenStateShaping:
    """Shapes advantages by the rank dynamics, against a running mean of earlier steps.

    As released: the first step gives no bonus; in every later step mu, from 0, moves by `rate`
    towards the mean of the *previous* step, after it was used; so the second step's deviations are
    all at their bound. The bonus stands on the last response token only. The released code sums
    it in bfloat16; we do not.

    Args:
        gain, gate, kappa: as `rank_bonus` and `bonus_limited`.
        rate: of the running mean; weight: of the bonus.
    """

    adds = frozenset({"advantages"})

    def __init__(
        self,
        *,
        gain: float = 2.0,
        gate: Gate = "acceleration",
        kappa: float = 2.0,
        rate: Share = 0.3,
        weight: float = 1.0,
    ) -> None:
        self.gain, self.gate, self.kappa = gain, gate, kappa
        self.rate, self.weight = rate, weight
        self.mean = torch.zeros(3, dtype=torch.float64)
        self.previous: Tensor | None = None

    def __call__(
        self,
        advantages: Tensor,
        mask: Tensor,
        rank_acceleration: Tensor,
        rank_velocity: Tensor,
        effective_rank: Tensor,
    ) -> Tensor:
        """Shaped advantages [N, T] from base ones, [N] or [N, T], and three signals [N]."""
        bonus = self.bonus(torch.stack([rank_acceleration, rank_velocity, effective_rank], 1))
        spread = advantages if advantages.dim() == 2 else advantages[:, None] * mask
        placed = at_last_token(bonus.to(spread.dtype), mask)
        return bonus_limited(spread, placed, kappa=self.kappa)

    def bonus(self, indicators: Tensor) -> Tensor:
        """The bonus of this step's rows [N], and remember their mean [3] for the next step."""
        previous, self.previous = self.previous, indicators.to(torch.float64).mean(0)
        if previous is None:
            return torch.zeros_like(indicators[:, 0])
        baseline = self.mean.to(indicators.dtype)
        self.mean = (1 - self.rate) * self.mean + self.rate * previous
        return self.weight * rank_bonus(indicators, baseline, gain=self.gain, gate=self.gate)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "previous": self.previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean, self.previous = state["mean"], state["previous"]
