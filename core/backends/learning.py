"""What every learner does around its engine: choose rows, read columns, sum terms, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from didact.core.backends.forward import Readouts, Row
from didact.core.backends.microbatch import plan
from didact.core.batch import Batch, together
from didact.core.errors import RecipeError, RunError
from didact.core.phase import READOUTS, readout_of
from didact.core.protocols import BoundRule, Names, UpdateRule, World
from didact.core.types import Trajectory

Forward = Callable[[Sequence[Row], Names, Names], Mapping[str, Tensor]]
BEHAVIOR, OLD = "behavior_logprobs", "old_logprobs"


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
                    f"'{column}' is stored on {stored} of {len(batch)} rows of a mini-batch; it "
                    f"must be on all (read before the phase) or on none (one step of the phase)."
                )
            if not stored:
                old[column] = readout
        first = {"logprobs"} if "logprobs" in offers else {"values"}
        live = frozenset(first | (rule.needs & READOUTS) | set(old.values()))
        return Wanted(live, old, (watch & offers) - live)


@dataclass
class Tally:
    """What the micro-batches of an update added up to; tensors until the end, to spare syncs.

    Attributes:
        terms: value of each term by micro-batch.
        sums: of reports over loss tokens, and of their counts.
        peaks: of reports.
        rows: the rows of each micro-batch.
    """

    terms: list[dict[str, Tensor]] = field(default_factory=list)
    sums: list[dict[str, Tensor]] = field(default_factory=list)
    peaks: list[dict[str, Tensor]] = field(default_factory=list)
    rows: list[Batch] = field(default_factory=list)


def backward(
    micro: Sequence[Batch],
    forward: Forward,
    bound: BoundRule,
    wanted: Wanted,
    apply: Callable[[Tensor, bool], None],
) -> Tally:
    """Forward and backward of the micro-batches of one process.

    Args:
        micro: rows of each; an empty one is a forward of one token, with loss 0.
        apply: takes the loss of a micro-batch, and whether it is the last one.
    """
    tally = Tally()
    for at, part in enumerate(micro):
        last = at + 1 == len(micro)
        if not len(part):
            apply(nothing(forward, wanted), last)
            continue
        live = dict(forward(rows_of(part.rows), wanted.live, wanted.watched))
        live |= {column: live[readout].detach() for column, readout in wanted.old.items()}
        terms = bound(part, live)
        apply(torch.stack(list(terms.values())).sum(), last)
        tally.terms.append({label: value.detach() for label, value in terms.items()})
        tally.rows.append(part)
        sums, peaks = _reports(part, {name: value.detach() for name, value in live.items()})
        tally.sums.append(sums)
        tally.peaks.append(peaks)
    return tally


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
    return max(len(row.prompt.tokens) + len(row.tokens) - 1, 1)


def _reports(
    part: Batch, live: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums over loss tokens, and peaks: entropy, drift from old, mismatch with the sampler."""
    device = next(iter(live.values())).device
    mask = part.mask.to(device)
    sums = {"tokens": mask.sum()}
    peaks: dict[str, Tensor] = {}
    if "entropy" in live:
        sums["entropy"] = torch.where(mask, live["entropy"], 0.0).sum()
    if "logprobs" not in live:
        return sums, peaks
    reference = live["logprobs"]
    if all(OLD in row.columns for row in part.rows):
        reference = part.stored(OLD).to(device)
        sums["kl_old"] = torch.where(mask, reference - live["logprobs"], 0.0).sum()
    sampled = [at for at, row in enumerate(part.rows) if BEHAVIOR in row.columns]
    if sampled:
        stored = [part.rows[at].columns[BEHAVIOR].float() for at in sampled]
        behavior = pad_sequence(stored, batch_first=True).to(device)
        width = behavior.shape[1]
        chosen = torch.tensor(sampled, device=device)
        inside = mask[chosen, :width]
        gap = torch.where(inside, (reference[chosen, :width] - behavior).abs(), 0.0)
        sums |= {"mismatch": gap.sum(), "sampled": inside.sum()}
        peaks["mismatch"] = gap.max() if gap.numel() else gap.new_zeros(())
    return sums, peaks


def metrics_of(tally: Tally, batch: Batch, idle: int, world: World) -> dict[str, float]:
    """The report of an update over all ranks.

    Raises:
        RunError: a term is not finite; says which, on which prompts. Nothing has been stepped.
    """
    labels = sorted({label for terms in tally.terms for label in terms})
    own = (_added(tally.terms), _added(tally.sums), _peaks(tally.peaks), _odd(tally))
    everyone = world.map(lambda items: [own for _ in items], range(world.size))
    odd = [line for _, _, _, lines in everyone for line in lines]
    if odd:
        raise RunError(f"the loss is not finite, nothing was updated: {'; '.join(odd[:3])}.")
    terms = _summed([terms for terms, _, _, _ in everyone])
    sums = _summed([sums for _, sums, _, _ in everyone])
    out = {**terms, "loss": sum(terms.values())} if labels or terms else {"loss": 0.0}
    out |= {"rows": float(len(batch)), "idle_rows": float(idle)}
    seen = out["tokens"] = sums.get("tokens", 0.0)
    for name in ("entropy", "kl_old"):
        if name in sums and seen:
            out[name] = sums[name] / seen
    if sums.get("sampled"):
        out["mismatch/abs_mean"] = sums["mismatch"] / sums["sampled"]
        out["mismatch/max"] = max(peak["mismatch"] for _, _, peak, _ in everyone if peak)
    return out


def _added(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Sums by name of several micro-batches, brought over in one transfer."""
    names = sorted({name for part in parts for name in part})
    if not names:
        return {}
    zero = next(iter(parts[0].values())).new_zeros((), dtype=torch.float64)
    added = [sum((part[n].double() for part in parts if n in part), zero) for n in names]
    return dict(zip(names, torch.stack(added).tolist(), strict=True))


def _peaks(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {n: max(float(part[n]) for part in parts if n in part) for n in names}


def _summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _odd(tally: Tally) -> list[str]:
    """The terms and prompts of micro-batches whose value is not finite."""
    lines = []
    total = _added(tally.terms)
    if all(isfinite(value) for value in total.values()):
        return []
    for terms, part in zip(tally.terms, tally.rows, strict=True):
        for label, value in terms.items():
            if not isfinite(float(value)):
                ids = sorted({row.prompt.id for row in part.rows})
                more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
                lines.append(
                    f"term '{label}' is {float(value)} on {len(part)} rows (prompts "
                    f"{', '.join(ids[:5])}{more})"
                )
    return lines or [f"the sum of the micro-batches is {total}"]


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


def refusal(batch: Batch) -> str:
    """What to say of a gradient that is not finite."""
    ids = sorted({row.prompt.id for row in batch.rows})
    return (
        f"the gradient is not finite though the loss is, nothing was updated: {len(batch)} rows of "
        f"prompts {', '.join(ids[:5])}{' …' if len(ids) > 5 else ''}."
    )


@torch.no_grad()
def _read(
    micro: Sequence[Sequence[int]], batch: Batch, forward: Forward, wanted: Names
) -> dict[int, dict[str, Tensor]]:
    out: dict[int, dict[str, Tensor]] = {}
    for positions in micro:
        rows = rows_of([batch.rows[at] for at in positions])
        if not rows:
            forward([(torch.zeros(1, dtype=torch.int64),) * 2], wanted, frozenset())
            continue
        columns = {
            name: value.float().cpu() for name, value in forward(rows, wanted, frozenset()).items()
        }
        for line, at in enumerate(positions):
            size = len(batch.rows[at].tokens)
            out[at] = {name: value[line, :size].clone() for name, value in columns.items()}
    return out
