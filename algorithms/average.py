"""The denominator of a loss: always over a whole mini-batch, never over a micro-batch or a rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class Constant(BaseModel):
    """A fixed divisor: `{per_sequence: C}` divides by C x sequences, `{total: C}` by C alone.

    `per_sequence` with the maximal length is Dr. GRPO, arXiv:2503.20783. `total` does not divide by
    the number of sequences, as ReLIFT, LUFFY and Critique-GRPO as released.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    per_sequence: float | None = Field(default=None, gt=0)
    total: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Constant:
        if (self.per_sequence is None) == (self.total is None):
            raise ValueError("give exactly one of 'per_sequence' and 'total'")
        return self


Average = Literal["tokens", "sequences", "sequence_sum", "prompts"] | Constant


def row_weights(mask: Tensor, prompts: Sequence[str], how: Average) -> Callable[[Tensor], Tensor]:
    """The weight of every loss token of a row, decided over the whole mini-batch.

    With L the per-token loss, m the mask, n the rows that have at least one loss token:

    * `tokens`: sum(L m) / sum(m)
    * `sequences`: mean over rows of sum_t(L m) / sum_t(m)
    * `sequence_sum`: sum(L m) / n
    * `prompts`: mean over prompts of the token mean within the prompt
    * `{per_sequence: C}`: sum(L m) / (n C)
    * `{total: C}`: sum(L m) / C

    Args:
        mask: loss tokens of the whole mini-batch, bool [B, T].
        prompts: prompt id of each row, length B.
        how: the convention.

    Returns:
        A function of the positions of some rows, int64 [b], to their weights, float64 [b]. With no
        loss token at all every weight is 0.
    """
    lengths = mask.sum(1, dtype=torch.float64)
    some = lengths > 0
    rows = int(some.sum())
    weight: Tensor | float = 0.0
    if rows:
        match how:
            case "tokens":
                weight = 1 / lengths.sum()
            case "sequences":
                weight = 1 / (rows * lengths)
            case "sequence_sum":
                weight = 1 / rows
            case "prompts":
                weight = _by_prompt(lengths, prompts)
            case Constant(per_sequence=float(length)):
                weight = 1 / (rows * length)
            case Constant(total=float(divisor)):
                weight = 1 / divisor
    weights = torch.where(some, torch.as_tensor(weight, dtype=torch.float64), 0.0)
    return lambda positions: weights[positions]


def _by_prompt(lengths: Tensor, prompts: Sequence[str]) -> Tensor:
    tokens: dict[str, float] = defaultdict(float)
    for prompt, length in zip(prompts, lengths.tolist(), strict=True):
        tokens[prompt] += length
    count = sum(total > 0 for total in tokens.values())
    totals = torch.tensor([tokens[prompt] for prompt in prompts], dtype=torch.float64)
    return 1 / (count * totals)
