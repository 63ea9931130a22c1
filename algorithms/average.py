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
    lengths = mask.sum(1).tolist()
    rows = sum(length > 0 for length in lengths)
    match how:
        case "tokens":
            divisors: Sequence[float] = [sum(lengths)] * len(lengths)
        case "sequences":
            divisors = [rows * length for length in lengths]
        case "sequence_sum":
            divisors = [rows] * len(lengths)
        case "prompts":
            divisors = _by_prompt(lengths, prompts)
        case Constant(per_sequence=float(constant)):
            divisors = [rows * constant] * len(lengths)
        case Constant(total=float(constant)):
            divisors = [constant] * len(lengths)
    each = [1 / by if length else 0.0 for by, length in zip(divisors, lengths, strict=True)]
    weights = torch.tensor(each, dtype=torch.float64)
    return lambda positions: weights[positions]


def _by_prompt(lengths: Sequence[int], prompts: Sequence[str]) -> list[int]:
    """Prompts with loss tokens x loss tokens of the row's."""
    tokens: dict[str, int] = defaultdict(int)
    for prompt, length in zip(prompts, lengths, strict=True):
        tokens[prompt] += length
    count = sum(total > 0 for total in tokens.values())
    return [count * tokens[prompt] for prompt in prompts]
