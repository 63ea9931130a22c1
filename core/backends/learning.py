"""What every learner does around its engine: choose rows, read columns, sum terms."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from didact.core.backends.budget import REMEDY, out_of_memory, release
from didact.core.backends.forward import Readouts, Row
from didact.core.backends.microbatch import plan
from didact.core.backends.reports import Tally, of_tokens
from didact.core.batch import Batch, together
from didact.core.errors import RecipeError, RunError
from didact.core.phase import READOUTS, readout_of
from didact.core.protocols import BoundRule, Names, UpdateRule, World
from didact.core.types import Trajectory

log = logging.getLogger(__name__)
Forward = Callable[[Sequence[Row], Names, Names], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Wanted:
    """The columns a forward pass must make for a rule on a mini-batch.

    Attributes:
        live: readouts with gradient.
        old: columns that equal a detached live readout, by the readout's name.
        watched: readouts without gradient, for reports.
    """

    live: Names
    old: Mapping[str, str]
    watched: Names

    @staticmethod
    def by(rule: UpdateRule, batch: Batch, offers: Names, watch: Names) -> Wanted:
        """Read a rule's needs. A stored `old_…` column is used; without one the live one is old.

        Args:
            batch: the rows that will be run forward.

        Raises:
            RecipeError: some rows carry an old column and others do not.
        """
        old = {}
        for column in sorted(rule.needs):
            prefix, readout = readout_of(column) or ("", "")
            if prefix != "old":
                continue
            stored = sum(column in row.columns for row in batch.rows)
            if stored not in (0, len(batch)):
                raise RecipeError(
                    f"'{column}' is stored on {stored} of {len(batch)} rows of a mini-batch (of "
                    f"those that are run forward); it must be on all (read before the phase) or on "
                    f"none (one step of the phase)."
                )
            if not stored:
                old[column] = readout
        first = {"logprobs"} if "logprobs" in offers else {"values"}
        live = frozenset(first | (rule.needs & READOUTS) | set(old.values()))
        return Wanted(live, old, (watch & offers) - live)


def backward(
    micro: Sequence[Batch],
    forward: Forward,
    bound: BoundRule,
    wanted: Wanted,
    apply: Callable[[Tensor, bool], None],
) -> Tally:
    """Forward and backward of the micro-batches of one process.

    A rank that runs out of memory goes on with forwards of nothing, so that the others, who are in
    collectives with it, come to the end of the update and hear of it there.

    Args:
        micro: rows of each; an empty one is a forward of one token, with loss 0.
        apply: takes the loss of a micro-batch, and whether it is the last one.
    """
    tally = Tally()

    def learn(part: Batch, last: bool) -> None:
        live = dict(forward(rows_of(part.rows), wanted.live, wanted.watched))
        live |= {column: live[readout].detach() for column, readout in wanted.old.items()}
        terms = bound(part, live)
        apply(reduce(add, terms.values()), last)
        tally.terms.append({label: value.detach() for label, value in terms.items()})
        tally.rows.append(part)
        sums, peaks = of_tokens(part, {name: value.detach() for name, value in live.items()})
        tally.sums.append(sums)
        tally.peaks.append(peaks)

    for at, part in enumerate(micro):
        last = at + 1 == len(micro)
        if len(part) and tally.short is None:
            try:
                learn(part, last)
                continue
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                tally.short = (sum(size_of(row) for row in part.rows), _alone(part))
            release()
        apply(nothing(forward, wanted), last)
    return tally


def _alone(part: Batch) -> str:
    """Names the row, or the rows that belong together, if there is no more in a part."""
    if len(together(part.rows)) > 1:
        return ""
    tokens = sum(size_of(row) for row in part.rows)
    return f"a row of {tokens} tokens (prompt '{part.rows[0].prompt.id}')"


def nothing(forward: Forward, wanted: Wanted) -> Tensor:
    """A loss of 0 that has gone through the whole model: for a rank that has no rows left."""
    row = (torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    live = forward([row], wanted.live, frozenset())
    return torch.stack([live[name].sum() for name in sorted(wanted.live)]).sum() * 0.0


def rows_of(rows: Sequence[Trajectory]) -> list[Row]:
    """Contexts and responses."""
    return [(row.prompt.tokens, row.tokens) for row in rows]


def size_of(row: Trajectory) -> int:
    """Tokens that are fed in for a row."""
    return max(row.prompt.tokens.numel() + row.tokens.numel() - 1, 1)


def micro_batches(
    batch: Batch, positions: Sequence[int], max_tokens: int, world: World, padded: bool
) -> list[Batch]:
    """This rank's micro-batches of some rows; as many as every other rank's.

    Rows of a pair stay together, and count as one of their sum (padded: of twice the longer one).
    """
    units = together([batch.rows[at] for at in positions])
    sizes = [[size_of(batch.rows[positions[at]]) for at in unit] for unit in units]
    lengths = [len(unit) * max(unit) if padded else sum(unit) for unit in sizes]
    mine = plan(lengths, max_tokens, world.size, padded=padded)[world.rank]
    return [batch.take([positions[at] for unit in micro for at in units[unit]]) for micro in mine]


def frozen(
    rows: Sequence[Trajectory],
    columns: Names,
    forward: Forward,
    reader: Readouts,
    max_tokens: int,
    world: World,
) -> list[Trajectory]:
    """Rows with readouts attached as columns; each rank reads a share, all get all."""
    named = {column: (readout_of(column) or ("", column))[1] for column in columns}
    unknown = sorted(column for column, readout in named.items() if readout not in reader.offers)
    if unknown:
        raise RecipeError(f"cannot freeze {unknown}: this model reads out {sorted(reader.offers)}.")
    if not rows or not columns:
        return list(rows)
    batch = Batch(tuple(rows))
    lengths = [size_of(row) for row in rows]
    dealt = plan(lengths, max_tokens, world.size, padded=not reader.packing)
    wanted = frozenset(named.values())

    def read(plans: Sequence[list[list[int]]]) -> list[dict[int, dict[str, Tensor]]]:
        return [_read(micro, batch, forward, wanted) for micro in plans]

    out: dict[int, dict[str, Tensor]] = {}
    for share in world.map(read, dealt):
        out |= share
    return [
        row.with_columns(**{column: out[at][readout] for column, readout in named.items()})
        for at, row in enumerate(rows)
    ]


@torch.no_grad()
def _read(
    micro: Sequence[Sequence[int]], batch: Batch, forward: Forward, wanted: Names
) -> dict[int, dict[str, Tensor]]:
    out: dict[int, dict[str, Tensor]] = {}
    for positions in micro:
        if not positions:
            forward([(torch.zeros(1, dtype=torch.int64),) * 2], wanted, frozenset())
            continue
        out |= _columns(positions, batch, forward, wanted)
    return out


def _columns(
    positions: Sequence[int], batch: Batch, forward: Forward, wanted: Names
) -> dict[int, dict[str, Tensor]]:
    """Readouts of some rows by position; in halves, if memory does not hold all at once."""
    rows = rows_of([batch.rows[at] for at in positions])
    try:
        read = forward(rows, wanted, frozenset())
        columns = {name: value.float().cpu() for name, value in read.items()}
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        columns = {}
    if columns:
        return {
            at: {name: value[line, : len(rows[line][1])].clone() for name, value in columns.items()}
            for line, at in enumerate(positions)
        }
    if len(rows) == 1:
        only = _alone(batch.take(positions))
        raise RunError(f"out of memory: {only} cannot be read by itself; {REMEDY}.")
    log.warning(f"out of memory reading {len(rows)} rows at once: they are read in halves")
    release()
    middle = len(positions) // 2
    first, second = positions[:middle], positions[middle:]
    return _columns(first, batch, forward, wanted) | _columns(second, batch, forward, wanted)
