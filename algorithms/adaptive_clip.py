"""PPO's clip with bounds that every mini-batch sets for itself: a rule, not a sum of terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from didact.algorithms.average import Average
from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.rules import Bound, Sum, Term
from didact.algorithms.tensors import LIMIT, log_ratio, per_token
from didact.core.batch import Batch
from didact.core.protocols import BoundRule, Names
from didact.core.ranges import NonNegative, Positive

Measure = Literal["released", "gradient_share"]
"""What must reach the target: the ratio of the clipped sums, or successes' share of gradients."""

NOW = "now_logprobs"


def positive_weight(
    ratio: Tensor, advantages: Tensor, mask: Tensor, *, low: float, high: float, measure: Measure
) -> float:
    """How much tokens with A >= 0 count against those with A < 0 under the bounds [low, high].

    `released`: S+ / (S- + 1e-8) with S+ = sum min(r, high) A and S- = sum max(r, low) |A|, infinite
    without a negative token, so a higher `low` lowers it. `gradient_share`: S+ / (S+ + S-) over
    tokens that keep a gradient, r <= high or r >= low, so a higher `low` raises it; 1 without any.

    Args:
        ratio: [B, T]; advantages: [B] or [B, T]; mask: bool [B, T].
    """
    gain = per_token(advantages, ratio).expand_as(ratio)
    good, bad = mask & (gain >= 0), mask & (gain < 0)
    if measure == "released":
        above = float((ratio.clamp(max=high) * gain)[good].sum())
        below = float((ratio.clamp(min=low) * -gain)[bad].sum())
        return above / (below + 1e-8) if below else inf
    above = float((ratio * gain)[good & (ratio <= high)].sum())
    below = float((ratio * -gain)[bad & (ratio >= low)].sum())
    return above / (above + below) if above + below else 1.0


@dataclass(frozen=True)
class BalancedClip:
    """PPO's clipped loss whose bounds each mini-batch widens until successes count enough. BAPO.

    Balanced Policy Optimization with adaptive clipping, arXiv:2510.18927, as WooooDyy/BAPO@7287044.
    The bounds start anew for each mini-batch and are searched on its live ratios, all ranks
    together; that costs one forward pass more (`now_logprobs`). As released the negative sum counts
    what is clipped, so raising `low` never helps and, when the target is missed, ends at its most;
    `gradient_share` is what the paper describes.

    Attributes:
        target: what `measure` must reach; released scripts 1 and 0.5, the paper's share 0.5.
        low_start, low_most, low_step: of the lower bound of the ratio; the example script has 0.8
            to 0.95, the paper 0.6 to 0.9.
        high_start, high_most, high_step: of the upper bound; the paper has 1.2 to 3.
        measure: see `positive_weight`.
        dual_clip: c of `ppo_clip`, for negative advantages.
        old: the column that the ratio is taken to.
        average: the denominator; in a recipe the phase's.
    """

    target: NonNegative = 1.0
    low_start: NonNegative = 0.6
    low_most: NonNegative = 0.8
    low_step: Positive = 0.05
    high_start: NonNegative = 1.2
    high_most: NonNegative = 2.0
    high_step: Positive = 0.05
    measure: Measure = "released"
    dual_clip: Annotated[float, Field(gt=1)] = 3.0
    old: Literal["old_logprobs", "behavior_logprobs"] = "old_logprobs"
    average: Average = "tokens"

    @property
    def needs(self) -> Names:
        return frozenset({"logprobs", NOW, self.old, "advantages"})

    @property
    def ahead(self) -> Names:
        return frozenset({NOW, self.old, "advantages"})

    def over(self, batch: Batch, step: int) -> BoundRule:
        """The clipped loss with the bounds of this mini-batch."""
        low, high = self.bounds(batch)
        settings = {"clip_low": 1 - low, "clip_high": high - 1, "dual_clip": self.dual_clip}
        loss = Bound(ppo_clip, settings, {"old_logprobs": self.old})
        return Sum([Term("balanced_clip", loss, average=self.average)]).over(batch, step)

    def bounds(self, batch: Batch) -> tuple[float, float]:
        """The lower and the upper bound of the ratio for this mini-batch."""
        if not len(batch):
            return self.low_start, self.high_start
        ratio = log_ratio(batch.stored(NOW), batch.stored(self.old), limit=LIMIT).exp()
        inside = torch.where(batch.mask, ratio, 1.0)
        return self.searched(inside, batch.stored("advantages"), batch.mask)

    def searched(self, ratio: Tensor, advantages: Tensor, mask: Tensor) -> tuple[float, float]:
        """Raise the lower bound, then the upper one, step by step, until the target is met.

        As `compute_policy_loss_bapo` of the release.

        Args:
            ratio: of the live policy to the old one, [B, T]; advantages: [B] or [B, T]; mask:
                [B, T].
        """
        low, high = self.low_start, self.high_start

        def met() -> bool:
            weight = positive_weight(
                ratio, advantages, mask, low=low, high=high, measure=self.measure
            )
            return weight >= self.target

        while low < self.low_most and not met():
            low = min(low + self.low_step, self.low_most)
        while high < self.high_most and not met():
            high = min(high + self.high_step, self.high_most)
        return low, high

    def idle(self, batch: Batch) -> Sequence[bool]:
        return [row.signals.get("advantages") == 0.0 for row in batch.rows]
