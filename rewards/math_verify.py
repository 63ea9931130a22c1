"""Mathematical answers graded by math-verify, in processes that can be killed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from didact.core.errors import RewardError
from didact.core.protocols import Failed
from didact.core.ranges import Count, Positive
from didact.core.types import Trajectory
from didact.rewards.extract import How
from didact.rewards.match import answers
from didact.rewards.pool import Died, Killed, Outcome, WorkerPool

log = logging.getLogger(__name__)


@dataclass
class MathVerify:
    r"""1.0 if the final answer is mathematically equal to the problem's answer, else 0.0.

    The answer is taken out of the response, boxed like the gold answer, and counts as right if
    both are spelled alike, are the same number, or math-verify says so. `1e-8` is read as a power
    of ten, `x**2` and `sqrt(2)` as LaTeX; tiny numbers must agree in their first digits. The
    problem's answer may be a list of equally right ones.

    What a response does to the grader is its own fault: if comparing it takes longer than the
    limit, or more memory or recursion than there is, it scores 0.0, and `counts` and a warning say
    how often.
    What is not its fault is `Failed`: an answer of the data that is missing or itself takes too
    long, an exception, a worker that crashes.

    ReLIFT's released reward (math_verify_reward.py, version 3) is
    `extract: whole, require: think, compare: math_verify`, apart from powers of ten, the guard on
    tiny numbers, and that of an unmarked text only the last 20,000 characters are read.

    Attributes:
        workers: grading processes, on every rank; they start at the first call.
        seconds: wall time for one response, then its worker is killed and replaced.
        extract: where the answer stands (`rewards.extract.final`). "auto": in `<answer>`, a box or
            after `####`, behind the thoughts; without any, wherever math-verify finds it.
        require: "think": the prompt has opened `<think>`; without `</think>` the response scores
            0.0, and only what stands between the first and a second `</think>` is read.
        compare: "either" as described, or "math_verify" for it alone.
        complete: whether a response that the length limit cut off is wrong.
        counts: "graded", and of these "timeouts" and "exhausted"; and "failed".
    """

    workers: Count = 2
    seconds: Positive = 5.0
    extract: How = "auto"
    require: Literal["nothing", "think"] = "nothing"
    compare: Literal["either", "math_verify"] = "either"
    complete: bool = False
    counts: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)
    _pool: WorkerPool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._pool = WorkerPool("didact.rewards.math_worker", self.workers, self.seconds)

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[float | Failed]:
        values: list[float | Failed] = [0.0] * len(trajectories)
        jobs: dict[int, dict[str, Any]] = {}
        for at, trajectory in enumerate(trajectories):
            try:
                golds = answers(trajectory)
            except RewardError as error:
                values[at] = Failed(str(error))
                continue
            text = self._read(trajectory)
            if text is not None:
                settings = {"extract": self.extract, "compare": self.compare}
                jobs[at] = {"text": text, "golds": golds, **settings}
        outcomes = self._pool.run(list(jobs.values()))
        before = self.counts["timeouts"] + self.counts["exhausted"]
        for at, outcome in zip(jobs, outcomes, strict=True):
            values[at] = self._value(outcome, trajectories[at].prompt.id)
        heavy = self.counts["timeouts"] + self.counts["exhausted"] - before
        if heavy:
            log.warning(
                "math_verify: %d of %d responses took more than %g s, or too much memory, to "
                "compare: they score 0",
                heavy,
                len(values),
                self.seconds,
            )
        failed = sum(isinstance(value, Failed) for value in values)
        self.counts.update(graded=len(values) - failed, failed=failed)
        return values

    def close(self) -> None:
        """End the grading processes; a later call starts new ones."""
        self._pool.close()

    def _read(self, trajectory: Trajectory) -> str | None:
        """The part of the response that is graded; None if it is wrong without a look."""
        text = trajectory.text
        if self.complete and trajectory.truncated:
            return None
        if self.require == "think":
            thoughts = text.split("</think>")
            text = thoughts[1] if len(thoughts) > 1 else ""
        return text if text.strip() else None

    def _value(self, outcome: Outcome, problem: str) -> float | Failed:
        match outcome:
            case Killed(stage="response"):
                self.counts["timeouts"] += 1
                return 0.0
            case Killed():
                return Failed(
                    f"problem '{problem}': its own answer takes more than {self.seconds} s to read"
                )
            case Died(status=status):
                return Failed(f"problem '{problem}': a grading process ended with status {status}")
            case {"equal": equal}:
                return float(equal)
            case {"exhausted": _}:
                self.counts["exhausted"] += 1
                return 0.0
            case _:
                return Failed(f"problem '{problem}': {outcome.get('failed', outcome)}")
