"""Adding up what a step's updates report, and what a run has spent so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COUNTS = frozenset({"rows", "tokens", "idle_rows", "skipped", "out_of_memory"})
"""What an update reports as a count: summed over a phase's updates. The rest is averaged."""


def record(metrics: dict[str, float], phase: str, update: Mapping[str, float]) -> None:
    """Enter one optimizer step's report under `phase/name`; `phase/updates` counts them.

    Counts are summed. The rest is averaged over the updates that ran something forward: one whose
    rows were all idle reports no more than its counts.
    """
    metrics[f"{phase}/updates"] = metrics.get(f"{phase}/updates", 0.0) + 1
    ran = update["rows"] > update["idle_rows"]
    before = metrics.get(f"{phase}/updates_run", 0.0)
    metrics[f"{phase}/updates_run"] = before + ran
    for name, value in update.items():
        key = f"{phase}/{name}"
        if name in COUNTS:
            metrics[key] = metrics.get(key, 0.0) + value
        elif ran:
            metrics[key] = (metrics.get(key, 0.0) * before + value) / (before + 1)


AXES = ("steps", "generated_tokens", "trained_tokens", "demonstrations", "seconds")
"""What a run can spend: the axes of a budget."""


class Spent:
    """What a run has spent so far, by axis; survives a checkpoint."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = dict.fromkeys(AXES, 0.0)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Account for one step's metrics, and enter the totals among them as `spent/AXIS`."""
        self.totals["steps"] += 1
        self.totals["seconds"] += metrics.get("seconds/step", 0.0)
        self.totals["generated_tokens"] += metrics.get("tokens/generated", 0.0)
        for name, value in metrics.items():
            if name.endswith("/tokens"):
                self.totals["trained_tokens"] += value
            elif name.endswith("/used/demonstration"):
                self.totals["demonstrations"] += value

    def state_dict(self) -> dict[str, Any]:
        return dict(self.totals)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.totals = dict(state)
