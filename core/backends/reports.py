"""What an update reports of its micro-batches, over all ranks; and which of them are not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from didact.core.backends.budget import TooLarge
from didact.core.batch import Batch
from didact.core.errors import RunError
from didact.core.protocols import World

BEHAVIOR, OLD = "behavior_logprobs", "old_logprobs"


@dataclass
class Tally:
    """What the micro-batches of an update added up to; tensors until the end, to spare syncs.

    Attributes:
        terms: value of each term by micro-batch.
        sums: of reports over loss tokens, and of their counts.
        peaks: of reports.
        rows: the rows of each micro-batch.
        short: tokens of a micro-batch that memory did not hold, and its row if it is only one.
    """

    terms: list[dict[str, Tensor]] = field(default_factory=list)
    sums: list[dict[str, Tensor]] = field(default_factory=list)
    peaks: list[dict[str, Tensor]] = field(default_factory=list)
    rows: list[Batch] = field(default_factory=list)
    short: tuple[int, str] | None = None


def of_tokens(
    part: Batch, live: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums over loss tokens, and peaks: entropy, drift from old, mismatch with the sampler."""
    device = next(iter(live.values())).device
    mask = part.mask.to(device)
    sums = {"tokens": _sum(mask)}
    peaks: dict[str, Tensor] = {}
    if "entropy" in live:
        sums["entropy"] = _sum(torch.where(mask, live["entropy"], 0.0))
    if "logprobs" not in live:
        return sums, peaks
    reference = live["logprobs"]
    if old := _carried(part, OLD, mask):
        chosen, stored, inside = old
        apart = torch.where(inside, stored - reference[chosen, : stored.shape[1]], 0.0)
        sums |= {"kl_old": _sum(apart), "aged": _sum(inside)}
        reference = reference.clone()
        reference[chosen, : stored.shape[1]] = stored
    if sampled := _carried(part, BEHAVIOR, mask):
        chosen, stored, inside = sampled
        apart = torch.where(inside, reference[chosen, : stored.shape[1]] - stored, 0.0)
        size = apart.abs()
        counted = sums["tokens"] if inside is mask else _sum(inside)
        sums |= {"mismatch": _sum(size), "sampled": counted}
        sums["mismatch_kl"] = (apart.double().expm1() - apart).sum()  # k3
        peaks["mismatch"] = size.max() if size.numel() else size.new_zeros(())
    return sums, peaks


def _sum(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)


def _carried(part: Batch, name: str, mask: Tensor) -> tuple[Tensor | slice, Tensor, Tensor] | None:
    """The rows with a column: which they are, what it says, and their loss tokens; None if none."""
    having = [at for at, row in enumerate(part.rows) if name in row.columns]
    if not having:
        return None
    if len(having) == len(part):
        return slice(None), part.stored(name).to(mask.device), mask
    stored = part.take(having).stored(name).to(mask.device)
    chosen = torch.tensor(having, device=mask.device)
    return chosen, stored, mask[chosen, : stored.shape[1]]


def metrics_of(tally: Tally, batch: Batch, idle: int, world: World) -> dict[str, float]:
    """The report of an update over all ranks.

    Raises:
        TooLarge: memory did not hold a micro-batch of some rank.
        RunError: a term is not finite; says which, on which prompts. Nothing has been stepped.
    """
    added = _added(tally.terms)
    own = (added, _added(tally.sums), _peaks(tally.peaks), _odd(tally, added), tally.short)
    everyone = world.map(lambda items: [own for _ in items], range(world.size))
    short = [found for _, _, _, _, found in everyone if found is not None]
    if short:
        raise TooLarge(min(tokens for tokens, _ in short), max(alone for _, alone in short))
    odd = [line for _, _, _, lines, _ in everyone for line in lines]
    if odd:
        raise RunError(f"the loss is not finite, nothing was updated: {'; '.join(odd[:3])}.")
    terms = _summed([terms for terms, *_ in everyone])
    sums = _summed([sums for _, sums, *_ in everyone])
    out = {**terms, "loss": sum(terms.values(), 0.0)}
    out |= {"rows": float(len(batch)), "idle_rows": float(idle)}
    seen = out["tokens"] = sums.get("tokens", 0.0)
    if "entropy" in sums and seen:
        out["entropy"] = sums["entropy"] / seen
    if sums.get("aged"):
        out["kl_old"] = sums["kl_old"] / sums["aged"]
    if sums.get("sampled"):
        out["mismatch/abs_mean"] = sums["mismatch"] / sums["sampled"]
        out["mismatch/kl"] = sums["mismatch_kl"] / sums["sampled"]
        out["mismatch/max"] = max(peak["mismatch"] for _, _, peak, *_ in everyone if peak)
    return out


def _added(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Sums by name of several micro-batches, brought over in one transfer."""
    named = [(name, value.double()) for part in parts for name, value in part.items()]
    added: dict[str, float] = {}
    values = torch.stack([value for _, value in named]).tolist() if named else []
    for (name, _), value in zip(named, values, strict=True):
        added[name] = added.get(name, 0.0) + value
    return added


def _peaks(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {n: max(float(part[n]) for part in parts if n in part) for n in names}


def _summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for part in parts for name in part})
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _odd(tally: Tally, total: Mapping[str, float]) -> list[str]:
    """The terms and prompts of micro-batches whose value is not finite, given their sums."""
    if all(isfinite(value) for value in total.values()):
        return []
    lines = []
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


def refusal(batch: Batch) -> str:
    """What to say of a gradient that is not finite."""
    ids = sorted({row.prompt.id for row in batch.rows})
    return (
        f"the gradient is not finite though the loss is, nothing was updated: {len(batch)} rows of "
        f"prompts {', '.join(ids[:5])}{' …' if len(ids) > 5 else ''}."
    )
