"""The training loop. It knows no algorithm, no source, no rank and no device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from didact.core.gather import Gather, GatherAhead
from didact.core.metrics import record
from didact.core.phase import Phase
from didact.core.protocols import Run
from didact.core.types import Group


def train(
    gather: Gather | GatherAhead, phases: Sequence[Phase], run: Run, steps: int
) -> Iterator[Sequence[Group]]:
    """Run steps until `steps`, yielding the groups of each; its metrics are in `run.metrics`.

    Evaluation, checkpoints and loggers live around this loop, between two steps.
    """
    while run.step < steps:
        run.metrics, run.seconds, run.scored = {}, {}, {}
        groups = gather(run)
        rows = [row for group in groups for row in group.leaving()]
        for phase in phases:
            phase.offer(rows, run)
            began = time.perf_counter()
            for batch in phase.batches(run):
                learner = run.learners[phase.model]
                update = learner.update(batch, phase.rule, phase.optimizer, run.step)
                record(run.metrics, phase.name, update)
            run.seconds[f"update {phase.name}"] = time.perf_counter() - began
        began = time.perf_counter()
        gather.settle(run)
        run.seconds["wait"] = time.perf_counter() - began
        began = time.perf_counter()
        for name, generator in run.generators.items():
            seen = generator.sync(run.learners[name]) or {}
            run.metrics |= {f"{name}/{key}": value for key, value in seen.items()}
        run.seconds["sync"] = time.perf_counter() - began
        left = {group.prompt.id for group in groups}
        run.sampler.observe([*groups, *(g for name, g in run.scored.items() if name not in left)])
        yield groups
        run.step += 1
