"""What runs cost: tokens, seconds by stage, demonstrations, memory; and whether budgets differ."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from didact.core.report.cells import AXES
from didact.core.report.read import Row, RunRecord

DIFFERS = 0.05
USED = "/used/"
PEAK = "memory/peak_gib/"


@dataclass(frozen=True)
class Cost:
    """Means over a method's runs; nan where no run recorded it.

    Attributes:
        totals: by budget axis.
        used: trajectories that phases learned from, by origin.
        stages: seconds by what they went to; "other" is the rest of the step.
        memory: the highest peak of any run, GiB, by whose it is: "gpu" or "process".
    """

    label: str
    runs: int
    totals: Mapping[str, float]
    used: Mapping[str, float]
    stages: Mapping[str, float]
    memory: Mapping[str, float]

    @property
    def share(self) -> float:
        """Demonstrations among all trajectories that were learned from."""
        every = sum(self.used.values())
        return self.used.get("demonstration", 0.0) / every if every else math.nan


def running(run: RunRecord, axis: str) -> list[float]:
    """What a run had used of a budget after each recorded step; [] if it never said.

    Runs write totals as `spent/AXIS`, which survive lost lines; older ones are summed up here. A
    step that did not record an amount counts nothing.
    """
    rows = list(run.train.values())
    name = f"spent/{axis.replace(' ', '_')}"
    if rows and all(name in row for row in rows):
        return [float(row[name]) for row in rows]
    each = [_spent(axis, row) for row in rows]
    if all(math.isnan(value) for value in each):
        return []
    return list(accumulate(0.0 if math.isnan(value) else value for value in each))


def _spent(axis: str, row: Row) -> float:
    """What one training step added to a budget axis; nan if it was not recorded."""
    if axis == "steps":
        return 1.0
    if axis == "demonstrations":
        return used(row).get("demonstration", 0.0)
    name = {
        "generated tokens": "tokens/generated",
        "trained tokens": "tokens/trained",
        "seconds": "seconds/step",
    }[axis]
    return float(row.get(name, math.nan))


def used(row: Row) -> dict[str, float]:
    """Trajectories learned from in a step, by origin, over all phases."""
    out: dict[str, float] = defaultdict(float)
    for key, value in row.items():
        if USED in key:
            out[key.rpartition("/")[2]] += value
    return dict(out)


def costs(runs: Sequence[RunRecord]) -> list[Cost]:
    """Costs of every method that has finished runs with metrics."""
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        if run.status == "finished" and run.train:
            groups[run.label].append(run)
    return [_cost(label, group) for label, group in groups.items()]


def _cost(label: str, runs: Sequence[RunRecord]) -> Cost:
    totals = {axis: _mean([total(run, axis) for run in runs]) for axis in AXES}
    rows = [row for run in runs for row in run.train.values()]
    origins = sorted({origin for row in rows for origin in used(row)})
    names = {key for row in rows for key in row if key.startswith("seconds/")} - {"seconds/step"}
    stages = {
        name.removeprefix("seconds/"): _mean([_sum(run, name) for run in runs])
        for name in sorted(names)
    }
    rest = totals["seconds"] - sum(stages.values())
    if stages and math.isfinite(rest):
        stages["other"] = max(rest, 0.0)
    peaks = [(name, float(row[name])) for row in rows for name in row if name.startswith(PEAK)]
    memory = {
        whose.removeprefix(PEAK): max(value for name, value in peaks if name == whose)
        for whose in sorted({name for name, _ in peaks})
    }
    return Cost(
        label=label,
        runs=len(runs),
        totals=totals,
        used={origin: _mean([_used(run, origin) for run in runs]) for origin in origins},
        stages=stages,
        memory=memory,
    )


def total(run: RunRecord, axis: str) -> float:
    """What a run used of a budget; nan if it never said."""
    sums = running(run, axis)
    return sums[-1] if sums else math.nan


def _sum(run: RunRecord, name: str) -> float:
    return sum(float(row.get(name, 0.0)) for row in run.train.values())


def _used(run: RunRecord, origin: str) -> float:
    return sum(used(row).get(origin, 0.0) for row in run.train.values())


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def budget_notices(found: Sequence[Cost], baseline: str, budget: str | None) -> list[str]:
    """Which budgets differ from the baseline's by more than 5 %, and by how much."""
    base = next((cost for cost in found if cost.label == baseline), None)
    if base is None:
        return []
    out = []
    for axis in AXES:
        unlike = [
            f"{cost.label} {_times(cost.totals[axis], base.totals[axis])}"
            for cost in found
            if cost is not base and _differs(cost.totals[axis], base.totals[axis])
        ]
        if unlike and axis == budget:
            out.append(
                f"The budget was to be equal in {axis} but is not; against {baseline}: "
                f"{'; '.join(unlike)}. Differences in accuracy may come from that."
            )
        elif unlike:
            out.append(f"Budgets differ in {axis}; against {baseline}: {'; '.join(unlike)}.")
    return out


def match_notices(
    runs: Sequence[RunRecord], matches: Mapping[str, tuple[str, str]]
) -> Iterator[str]:
    """Which runs were to spend as much as another method's of their seed, but are over 5 % off.

    Args:
        matches: by label, the axis and the other method.
    """
    done = {(run.label, run.seed): run for run in runs if run.status == "finished"}
    for (label, seed), run in done.items():
        axis, of = matches.get(label, ("", ""))
        if (of, seed) in done:
            mine, theirs = total(run, axis), total(done[of, seed], axis)
            if _differs(mine, theirs):
                said = _times(mine, theirs)
                yield f"{run.name}, was to have as many {axis} as {of}, but has {said}."


def _differs(one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return False
    return abs(one - other) > DIFFERS * max(abs(one), abs(other))


def _times(one: float, other: float) -> str:
    if not other or not one:
        return f"{one:,.0f} instead of {other:,.0f}"
    return f"{one / other:.2f}x"
