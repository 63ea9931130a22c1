"""Trajectories as tensors: padded responses, row by row, and nothing else.

Everything a loss sees is aligned to the *response*: shape [B, T], where column t belongs to
response token t. Prompts enter only the forward pass of a learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from didact.core.errors import RecipeError
from didact.core.types import Trajectory


@dataclass(frozen=True, eq=False)
class Batch:
    """The rows of one mini-batch, or of a part of it.

    Attributes:
        rows: the trajectories, in row order.
    """

    rows: tuple[Trajectory, ...]

    @cached_property
    def mask(self) -> Tensor:
        """Response tokens that carry loss, bool [B, T]; False on padding."""
        return self._padded("trainable", [row.trainable for row in self.rows])

    @cached_property
    def tokens(self) -> Tensor:
        """Response tokens, int64 [B, T]; 0 on padding."""
        return self._padded("tokens", [row.tokens for row in self.rows])

    @cached_property
    def _inside(self) -> Tensor:
        """Where a row has a token, bool [B, T]."""
        lengths = [shape[0] for shape in self._shapes]
        return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    @cached_property
    def _shapes(self) -> list[torch.Size]:
        return [row.tokens.shape for row in self.rows]

    def _padded(self, name: str, given: Sequence[Tensor]) -> Tensor:
        """One value per token of each row, as [B, T], 0 on padding; in the widest dtype of them.

        Raises:
            RecipeError: a row has another number of values than tokens.
        """
        shapes = [value.shape for value in given]
        if shapes != self._shapes:
            bad = next(at for at, shape in enumerate(self._shapes) if shapes[at] != shape)
            row = self.rows[bad]
            raise RecipeError(
                f"'{name}' has shape {tuple(shapes[bad])} on a response of {len(row.tokens)} "
                f"tokens (prompt '{row.prompt.id}', origin {row.origin})."
            )
        flat = torch.cat(list(given))
        return flat.new_zeros(self._inside.shape).masked_scatter_(self._inside, flat)

    def has(self, name: str) -> bool:
        """Whether every row carries this column or signal."""
        return all(name in row.columns or name in row.signals for row in self.rows)

    def stored(self, name: str) -> Tensor:
        """What the rows carry under this name: a column as float [B, T], a signal as float [B].

        Raises:
            RecipeError: some rows lack it, or a column's length is not its response's.
        """
        if all(name in row.columns for row in self.rows):
            return self._padded(name, [row.columns[name] for row in self.rows])
        unsigned = [row for row in self.rows if name not in row.signals]
        lacking = [row for row in unsigned if name not in row.columns]
        if lacking:
            raise RecipeError(
                f"'{name}' is missing on {len(lacking)} of {len(self.rows)} rows "
                f"({_origins(lacking)}); narrow the rule with 'where', or add the stage that makes "
                f"it."
            )
        if unsigned:
            raise RecipeError(
                f"'{name}' is a number for each token on {len(unsigned)} of {len(self.rows)} rows "
                f"({_origins(unsigned)}), and one for the whole response on the others; give all "
                f"the same."
            )
        return torch.tensor([row.signals[name] for row in self.rows], dtype=torch.float32)

    def take(self, chosen: Sequence[int]) -> Batch:
        """The rows at these positions, in this order; with their mask, if it is known here.

        The batch itself, with all that it has worked out, if these are all rows in their order.
        """
        if len(chosen) == len(self) and list(chosen) == list(range(len(self))):
            return self
        taken = Batch(tuple(self.rows[at] for at in chosen))
        if chosen and "mask" in self.__dict__:
            width = max(row.tokens.numel() for row in taken.rows)
            taken.__dict__["mask"] = self.mask[torch.tensor(chosen)][:, :width]
        return taken

    def __len__(self) -> int:
        return len(self.rows)


def _origins(rows: Sequence[Trajectory]) -> str:
    return f"origin {', '.join(sorted({row.origin for row in rows}))}"


def together(rows: Sequence[Trajectory]) -> list[list[int]]:
    """Positions of rows that one forward pass must see together, in the order of their first.

    Rows that share a signal `pair` do; every other row stands alone.
    """
    pairs = [row.signals.get("pair") for row in rows]
    if pairs.count(None) == len(pairs):
        return [[at] for at in range(len(pairs))]
    units: dict[tuple[str, float], list[int]] = {}
    for at, pair in enumerate(pairs):
        units.setdefault(("row", at) if pair is None else ("pair", pair), []).append(at)
    return list(units.values())
