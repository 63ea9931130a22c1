"""Lifting pure losses into an update rule: binding by name, weights, choice of rows and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from didact.algorithms.average import Average, row_weights
from didact.algorithms.mixing import by_noise
from didact.core.batch import Batch
from didact.core.bind import columns_of
from didact.core.errors import PluginError
from didact.core.learned import Learned, learned_of
from didact.core.protocols import BoundRule, Names, PerToken, UpdateRule
from didact.core.schedule import Scalar, Schedule, value_at
from didact.core.where import EVERYTHING, Range, Where

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Bound:
    """A pure function with its settings, and what each of its columns is read from.

    Attributes:
        function: a loss or a weight.
        settings: its keyword-only parameters; each may be a schedule.
        bind: reads a column from another name, e.g. `{old_logprobs: behavior_logprobs}`.
    """

    function: PerToken
    settings: Settings = field(default_factory=dict)
    bind: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def reads(self) -> Mapping[str, str]:
        """For each column of the function, the name of what it is read from."""
        return {name: self.bind.get(name, name) for name in columns_of(self.function)}

    @property
    def needs(self) -> Names:
        return frozenset(self.reads.values())

    def __call__(self, read: Callable[[str], Tensor], step: int) -> Tensor:
        arguments = {name: read(source) for name, source in self.reads.items()}
        settings = {k: v(step) if isinstance(v, Schedule) else v for k, v in self.settings.items()}
        return self.function(**arguments, **settings)


@dataclass(frozen=True)
class Term:
    """One weighted loss on the rows and tokens that match.

    It chooses its rows before it reads, so that it asks a column only of *its* rows.

    Attributes:
        label: what its value is logged under.
        weight: multiplies the loss; may be a schedule. With a learned s the term is
            exp(-2 s) times the loss, plus s, counted once, unless the loss vanishes on all rows.
        where: rows it is for.
        tokens: tokens it is for, by the value of a stored column, e.g. `{prefix: 1}`.
        times: per-token multipliers, without gradient unless they make one themselves.
        select: multipliers that look at the whole mini-batch at once; they read frozen columns.
        average: the denominator.
        batch_average: the denominator counts all rows of the mini-batch, not only this term's.
        recount: the denominator leaves out tokens for which `select` gives 0.
    """

    label: str
    loss: Bound
    weight: Scalar | Learned = 1.0
    where: Where = EVERYTHING
    tokens: Mapping[str, Range | float] = field(default_factory=dict)
    times: Sequence[Bound] = ()
    select: Sequence[Bound] = ()
    average: Average = "tokens"
    batch_average: bool = False
    recount: bool = False

    @property
    def needs(self) -> Names:
        parts = [self.loss.needs, *(t.needs for t in self.times), *(s.needs for s in self.select)]
        return frozenset().union(*parts, self.tokens, self.where.needs)

    @property
    def ahead(self) -> Names:
        return frozenset().union(*(s.needs for s in self.select), self.tokens)

    @property
    def learned(self) -> Mapping[str, Learned]:
        return {self.weight.learned: self.weight} if isinstance(self.weight, Learned) else {}

    def mask(self, batch: Batch) -> Tensor:
        """Tokens of these rows that carry this term's loss, bool [B, T]."""
        mask = batch.mask
        for name, want in self.tokens.items():
            column = batch.stored(name)
            inside = _within(column, want) if isinstance(want, Range) else column == want
            mask = mask & inside
        return mask

    def over(self, batch: Batch, step: int) -> Callable[[Batch, Mapping[str, Tensor]], Tensor]:
        chosen = [at for at, row in enumerate(batch.rows) if self.where(row)]
        mine = batch.take(chosen)
        counted = batch if self.batch_average else mine
        mask = self.mask(mine) if chosen else torch.zeros(0, 0, dtype=torch.bool)
        picked = self._selected(mine, mask, step) if self.select and chosen else None
        total = self._counted(batch, chosen, mask, picked)
        weigh = row_weights(total, [row.prompt.id for row in counted.rows], self.average)
        where = {id(row): at for at, row in enumerate(counted.rows)}
        chosen_rows = {id(row): at for at, row in enumerate(mine.rows)}
        weighed = self._weighed(batch, step)

        def term(part: Batch, live: Mapping[str, Tensor]) -> Tensor:
            keep = [at for at, row in enumerate(part.rows) if id(row) in chosen_rows]
            if not keep or weighed is None:
                return next(iter(live.values())).sum() * 0.0
            rows = part.take(keep)
            width = rows.mask.shape[1]
            tokens = self.mask(rows)
            own = slice(None) if rows is part else keep
            columns = {k: v[own][:, :width] for k, v in live.items() if v.dim() == 2}
            read = _reader(rows, columns, tokens)
            per_token = _sized(self.loss, self.loss(read, step), tokens.shape)
            for times in self.times:
                per_token = per_token * _as_tokens(times, times(read, step), tokens.shape)
            if picked is not None:
                at = [chosen_rows[id(row)] for row in rows.rows]
                per_token = per_token * picked[at][:, :width].to(per_token)
            weights = weigh(torch.tensor([where[id(row)] for row in rows.rows])).to(per_token)
            value = torch.where(tokens.to(per_token.device), per_token, 0.0).sum(1)
            return weighed((value * weights).sum(), rows, live)

        return term

    def _counted(
        self, batch: Batch, chosen: Sequence[int], mask: Tensor, picked: Tensor | None
    ) -> Tensor:
        """The tokens that the denominator counts, bool, of this term's rows or of all."""
        if picked is None or not self.recount:
            return batch.mask if self.batch_average else mask
        kept = mask & (picked != 0)
        if not self.batch_average:
            return kept
        total = batch.mask.clone()
        total[list(chosen), : mask.shape[1]] &= kept | ~mask
        return total

    def _weighed(
        self, batch: Batch, step: int
    ) -> Callable[[Tensor, Batch, Mapping[str, Tensor]], Tensor] | None:
        """How the loss of some rows is weighed; None if the weight is 0.

        Of a learned s every row whose loss does not vanish stands for the same share, so that it
        counts once over the mini-batch, however that is cut.
        """
        if not isinstance(self.weight, Learned):
            scale = value_at(self.weight, step)
            return (lambda loss, rows, live: scale * loss) if scale != 0.0 else None
        name, idle = self.weight.learned, self.idle(batch)
        active = {id(row) for row, is_idle in zip(batch.rows, idle, strict=True) if not is_idle}

        def by_learned(loss: Tensor, rows: Batch, live: Mapping[str, Tensor]) -> Tensor:
            share = sum(id(row) in active for row in rows.rows) / max(len(active), 1)
            return by_noise(loss, live[name], share)

        return by_learned

    def _selected(self, mine: Batch, mask: Tensor, step: int) -> Tensor:
        read = _reader(mine, {}, mask)
        out = torch.ones(mask.shape)
        for select in self.select:
            out = out * _as_tokens(select, select(read, step), mask.shape)
        return out

    def idle(self, batch: Batch) -> Sequence[bool]:
        """True where the term is not for the row, or its loss vanishes there exactly."""
        zero = getattr(self.loss.function, "vanishes_with", None)
        name = self.loss.bind.get(zero, zero) if zero else None
        return [
            not self.where(row) or (name is not None and row.signals.get(name) == 0.0)
            for row in batch.rows
        ]


def _within(column: Tensor, want: Range) -> Tensor:
    """Which numbers of a column are `in` the range, bool [B, T]."""
    value = column.double()
    inside = (value >= want.at_least) & (value <= want.at_most)
    above = value > want.above if want.above != -inf else inside
    below = value < want.below if want.below != inf else inside
    return inside & above & below


def vanishes_with(column: str) -> Callable[[PerToken], PerToken]:
    """Declare that a loss has value and gradient 0 where this signal is 0, whatever the policy.

    Rows on which every term vanishes are counted in the denominators but never run forward.
    """

    def mark(loss: PerToken) -> PerToken:
        loss.vanishes_with = column  # type: ignore[attr-defined]
        return loss

    return mark


def _as_tokens(weight: Bound, made: Tensor, shape: torch.Size) -> Tensor:
    """A weight of tokens or of rows, as one of tokens."""
    sized = _sized(weight, made, shape, shape[:1])
    return sized[:, None] if sized.dim() == 1 else sized


def _sized(part: Bound, made: Tensor, *shapes: torch.Size) -> Tensor:
    """What a loss or weight returned; of another shape it might be spread over tokens unseen."""
    shape = getattr(made, "shape", None)
    if shape not in shapes:
        name = getattr(part.function, "__name__", type(part.function).__name__)
        given = type(made).__name__ if shape is None else f"shape {list(shape)}"
        wanted = " or ".join(str(list(allowed)) for allowed in shapes)
        raise PluginError(f"'{name}' returned {given}; expected {wanted}: rows, tokens.")
    return made


def _reader(rows: Batch, live: Mapping[str, Tensor], mask: Tensor) -> Callable[[str], Tensor]:
    """Columns by name: live first, then stored. Positions without loss read as 0."""
    device = next(iter(live.values())).device if live else mask.device
    inside = mask.to(device)

    def read(name: str) -> Tensor:
        if name == "mask":
            return inside
        value = live[name] if name in live else rows.stored(name).to(device)
        return torch.where(inside, value, 0.0) if value.dim() == 2 else value

    return read


@dataclass(frozen=True)
class Sum:
    """Terms applied together; reads the union of their columns."""

    terms: Sequence[Term]

    @property
    def needs(self) -> Names:
        return frozenset().union(*(term.needs for term in self.terms))

    @property
    def ahead(self) -> Names:
        return frozenset().union(*(term.ahead for term in self.terms))

    @property
    def learned(self) -> Mapping[str, Learned]:
        return {name: kept for term in self.terms for name, kept in term.learned.items()}

    def over(self, batch: Batch, step: int) -> BoundRule:
        bound = {term.label: term.over(batch, step) for term in self.terms}
        return lambda part, live: {label: term(part, live) for label, term in bound.items()}

    def idle(self, batch: Batch) -> Sequence[bool]:
        return [all(row) for row in zip(*(term.idle(batch) for term in self.terms), strict=True)]


@dataclass(frozen=True)
class Joined:
    """Whole rules applied together: a sum of terms, and rules that are no such sum."""

    rules: Sequence[UpdateRule]

    @property
    def needs(self) -> Names:
        return frozenset().union(*(rule.needs for rule in self.rules))

    @property
    def ahead(self) -> Names:
        return frozenset().union(*(rule.ahead for rule in self.rules))

    @property
    def learned(self) -> Mapping[str, Learned]:
        return {name: kept for rule in self.rules for name, kept in learned_of(rule).items()}

    def over(self, batch: Batch, step: int) -> BoundRule:
        bound = [rule.over(batch, step) for rule in self.rules]
        return lambda part, live: {k: v for one in bound for k, v in one(part, live).items()}

    def idle(self, batch: Batch) -> Sequence[bool]:
        return [all(row) for row in zip(*(rule.idle(batch) for rule in self.rules), strict=True)]
