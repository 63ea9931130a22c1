"""A phase: whom one kind of update learns from, when, and by which rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf
from random import Random

from didact.core.batch import Batch, together
from didact.core.errors import RecipeError
from didact.core.protocols import Names, Reader, ReplayBuffer, Run, UpdateRule
from didact.core.ranks import RANK_STRIDES
from didact.core.seeds import seed_of
from didact.core.types import Trajectory
from didact.core.where import Where

READOUTS = frozenset({"logprobs", "entropy", "values", "mean_logprobs", "collision", *RANK_STRIDES})
"""What a learner's forward pass can read out, one value per response token:
log-probability of the token, entropy of the distribution, value head, mean over the vocabulary of
the log-probabilities, the sum of squared probabilities, and, never with gradient, effective ranks
of the last hidden states up to every so many tokens."""

OWN = frozenset({"", "old", "now"})
"""Prefixes of the model that learns: live; before the phase's first step; before each step."""


def readout_of(column: str) -> tuple[str, str] | None:
    """Split "ref_logprobs" into ("ref", "logprobs"), "values" into ("", "values").

    None for a column that is no readout of a model, as "advantages" or "behavior_logprobs".
    """
    if column in READOUTS:
        return "", column
    prefix, _, readout = column.partition("_")
    if readout in READOUTS and prefix != "behavior":
        return prefix, readout
    return None


@dataclass(frozen=True)
class Trigger:
    """When a phase may step: inside a window of steps, once its pool is large enough.

    Attributes:
        at_least: trajectories that must be waiting.
        every: only on every k-th step of the window.
        first, last: the window of steps, counted from 0, both included.
    """

    at_least: int = 1
    every: int = 1
    first: int = 0
    last: float = inf

    def __call__(self, step: int, waiting: int) -> bool:
        in_window = self.first <= step <= self.last and (step - self.first) % self.every == 0
        return in_window and waiting >= max(self.at_least, 1)


@dataclass(frozen=True)
class Phase:
    """take -> pool -> when -> rule -> batches.

    Attributes:
        take: which trajectories of a step enter the pool.
        pool: where they wait.
        when: when the phase steps.
        rule: the objective.
        batch_size: most rows of one optimizer step; more rows make more steps of nearly equal
            size. None: whatever was drawn is one step.
        draw: how many rows a firing takes from the pool; None: all of them.
        epochs: passes over what was drawn.
        shuffle: each pass in another order, of the seed of run, step, phase and pass; else all in
            the order of the pool.
        model: the model that learns.
        optimizer: which of its optimizers steps.
        max_age: drop rows sampled more than so many weight versions ago, and count them.
    """

    name: str
    take: Where
    pool: ReplayBuffer
    when: Trigger
    rule: UpdateRule
    batch_size: int | None = None
    draw: int | None = None
    epochs: int = 1
    model: str = "policy"
    optimizer: str = "main"
    max_age: int | None = None
    shuffle: bool = False

    def offer(self, rows: Sequence[Trajectory], run: Run) -> None:
        """Put what the phase takes of the rows that left their groups into its pool.

        Rows of steps before the phase's window wait for it; after the window nothing is kept. What
        a full pool lets go for them is counted as `PHASE/pool_dropped`.
        """
        if run.step > self.when.last:
            return
        before = getattr(self.pool, "dropped", 0)
        self.pool.add([row for row in rows if self.take(row)])
        lost = getattr(self.pool, "dropped", 0) - before
        if lost:
            run.metrics[f"{self.name}/pool_dropped"] = float(lost)

    def batches(self, run: Run) -> Iterator[Batch]:
        """Mini-batches for this step, none if it is not time. Frozen columns are read once."""
        if not self.when(run.step, len(self.pool)):
            return
        rows = self._fresh(
            self.pool.sample(len(self.pool) if self.draw is None else self.draw), run
        )
        if not rows:
            return
        self._account(rows, run)
        steps = self.epochs * (ceil(len(rows) / self.batch_size) if self.batch_size else 1)
        rows = list(self._aged(self._frozen(rows, steps, run), run))
        for epoch in range(self.epochs):
            if self.shuffle:
                Random(seed_of("shuffle", run.seed, run.step, self.name, epoch)).shuffle(rows)
            for batch in _mini_batches(rows, self.batch_size or len(rows)):
                yield self._now(batch, run)

    def _account(self, rows: Sequence[Trajectory], run: Run) -> None:
        """Report whom the phase learns from, and how old it is in weight versions.

        A row that begins with a demonstration's tokens (column "prefix") uses a demonstration.
        """
        for origin in sorted({row.origin for row in rows}):
            used = self.epochs * sum(row.origin == origin for row in rows)
            run.metrics[f"{self.name}/used/{origin}"] = float(used)
        begun = sum(
            bool((row.columns["prefix"] > 0).any()) for row in rows if "prefix" in row.columns
        )
        if begun:
            name = f"{self.name}/used/demonstration"
            run.metrics[name] = run.metrics.get(name, 0.0) + self.epochs * begun
        version = self._version(run)
        ages = [version - row.version for row in rows if row.version is not None]
        if ages:
            run.metrics[f"{self.name}/age_mean"] = sum(ages) / len(ages)
            run.metrics[f"{self.name}/age_max"] = float(max(ages))

    def _version(self, run: Run) -> int:
        """Weight syncs so far, of the model that is sampled: its own, or the policy."""
        return (run.generators.get(self.model) or run.generators["policy"]).version

    def _fresh(self, rows: Sequence[Trajectory], run: Run) -> Sequence[Trajectory]:
        if self.max_age is None:
            return rows
        oldest = self._version(run) - self.max_age
        fresh = [row for row in rows if row.version is None or row.version >= oldest]
        run.metrics[f"{self.name}/dropped_stale"] = float(len(rows) - len(fresh))
        return fresh

    def _aged(self, rows: Sequence[Trajectory], run: Run) -> Sequence[Trajectory]:
        """For rules that read "age": weight syncs since a row was sampled; 0 if it was not ours."""
        if "age" not in self.rule.needs:
            return rows
        now = self._version(run)
        ages = [0 if row.version is None else now - row.version for row in rows]
        return [row.with_signals(age=float(age)) for row, age in zip(rows, ages, strict=True)]

    def _frozen(self, rows: Sequence[Trajectory], steps: int, run: Run) -> Sequence[Trajectory]:
        """Read out the columns the rule wants frozen; "old" ones not, when one step needs none."""
        wanted: dict[str, set[str]] = {}
        for column in self.rule.needs:
            split = readout_of(column)
            if split is not None and split[0] not in ("", "now"):
                wanted.setdefault(split[0], set()).add(column)
        for prefix, columns in sorted(wanted.items()):
            if prefix == "old":  # of a single step, the live columns are the old ones
                needed = frozenset(columns) if steps > 1 else frozenset(columns) & self.rule.ahead
                rows = self._read(run.learners[self.model], rows, needed) if needed else rows
            elif prefix in run.frozen:
                rows = self._read(run.frozen[prefix], rows, frozenset(columns))
            else:
                raise RecipeError(
                    f"phases.{self.name}: its rule reads {sorted(columns)}, but there is no model "
                    f"'{prefix}' (there is: {', '.join(sorted(run.frozen)) or 'none'})."
                )
        return rows

    def _read(
        self, reader: Reader, rows: Sequence[Trajectory], columns: Names
    ) -> Sequence[Trajectory]:
        """Rows with these columns; those on which the loss vanishes only if the rule looks at all
        rows beforehand."""
        if columns & self.rule.ahead:
            return reader.freeze(rows, columns)
        idle = self.rule.idle(Batch(tuple(rows)))
        active = [row for row, is_idle in zip(rows, idle, strict=True) if not is_idle]
        read = iter(reader.freeze(active, columns))
        return [row if is_idle else next(read) for row, is_idle in zip(rows, idle, strict=True)]

    def _now(self, batch: Batch, run: Run) -> Batch:
        """For rules that look at the live policy over the whole mini-batch: one forward more."""
        split = {column: readout_of(column) for column in self.rule.needs}
        now = frozenset(column for column, found in split.items() if found and found[0] == "now")
        return Batch(tuple(run.learners[self.model].freeze(batch.rows, now))) if now else batch


def _mini_batches(rows: Sequence[Trajectory], most: int) -> Iterator[Batch]:
    """Mini-batches of nearly equal size; rows of a pair stay in one."""
    units = together(rows)
    parts = min(ceil(len(rows) / most), len(units))
    for part in range(parts):
        some = units[part * len(units) // parts : (part + 1) * len(units) // parts]
        yield Batch(tuple(rows[at] for unit in some for at in unit))
