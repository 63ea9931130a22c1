"""Around the loop: evaluation, checkpoints, stopping, signals and observers, between two steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from didact.core import checkpoint
from didact.core.backends.engines import peak_memory
from didact.core.errors import RunError
from didact.core.evaluate import Answered, Evaluation, base_bins, binned, write
from didact.core.folder import RunFolder, replacing
from didact.core.gather import Gather, GatherAhead
from didact.core.loop import train
from didact.core.metrics import Spent
from didact.core.observe import notify
from didact.core.phase import Phase
from didact.core.protocols import Run, Stateful
from didact.core.signals import Interrupted, Signals


@dataclass(frozen=True)
class Stop:
    """End early once an evaluation metric reaches a value; the learning rates then fall to 0.

    Attributes:
        cooldown: steps that follow, over which every learning rate falls linearly to 0.
        after: not before so many steps.
    """

    metric: str
    at_least: float
    cooldown: int = 0
    after: int = 0


@dataclass
class Session:
    """One run from start or resumption to its final model.

    Attributes:
        steps: planned steps.
        save_every: steps between states; 0: only on a signal.
        budget: most of some axes of `core.metrics.AXES`; the step that reaches one is the last.
        parts: stateful parts of the recipe, by path.
        last: the step the run will end at; earlier than `steps` once `stop` was met.
        done: steps that are done.
        evaluated: after how many of them the last evaluation was.
    """

    run: Run
    gather: Gather | GatherAhead
    phases: Sequence[Phase]
    steps: int
    folder: RunFolder
    parts: Mapping[str, Stateful]
    observers: Sequence[Any] = ()
    evaluation: Evaluation | None = None
    stop: Stop | None = None
    save_every: int = 0
    keep: int = 1
    budget: Mapping[str, float] = field(default_factory=dict)
    bins: Mapping[str, str] | None = None
    cooling_since: int | None = None
    spent: Spent = field(default_factory=Spent)
    signals: Signals = field(default_factory=Signals)
    done: int = 0
    evaluated: int = 0

    @property
    def last(self) -> int:
        """The step the run ends with, as far as is known."""
        if any(self.spent.totals[axis] >= most for axis, most in self.budget.items()):
            return int(self.spent.totals["steps"])
        if self.stop is None or self.cooling_since is None:
            return self.steps
        return min(self.steps, self.cooling_since + self.stop.cooldown)

    def __call__(self) -> str:
        """Run to the end. Returns "done", or "interrupted" after a signal, with a state written."""
        error: BaseException | None = None
        try:
            with self.signals.heard():
                return "done" if self._ended() else "interrupted"
        except BaseException as caught:
            error = caught
            raise
        finally:
            notify(self.observers, "on_end", error)

    def _ended(self) -> bool:
        """Run until the final model is there; False if a signal came before, with a state."""
        notify(self.observers, "on_start", self.run)
        with suppress(Interrupted):
            if self.evaluation is not None and self.evaluation.bins and self.bins is None:
                self._measure_base()
            if self.done:
                self._between()  # what a signal had broken off
            self._train()
            self._finish()
            return True
        # out here, or the signal would seem to be the cause of what saving raises
        if self.done and not self.folder.state(self.done).exists():
            self._save()
        return False

    def _train(self) -> None:
        if self.done >= self.last:
            return
        began = time.perf_counter()
        for groups in train(self.gather, self.phases, self.run, self.steps):
            self.done = self.run.step + 1
            self._account(time.perf_counter() - began)
            notify(self.observers, "on_step", self.run.step, groups, self.run.metrics)
            self._between()
            if self.done >= self.last:
                break
            self._listen()
            if self.save_every and self.done % self.save_every == 0:
                self._save()
            began = time.perf_counter()

    def _account(self, seconds: float) -> None:
        run = self.run
        for name, value in run.metrics.items():
            if not math.isfinite(value):
                raise RunError(f"step {run.step + 1}: metric '{name}' is {value}.")
        whose, peak = peak_memory()
        own = {"seconds/step": seconds, f"memory/peak_gib/{whose}": peak}
        ranks = run.world.map(lambda items: [own for _ in items], range(run.world.size))
        run.metrics |= {name: max(rank[name] for rank in ranks) for name in own}  # all must agree
        run.metrics |= {f"seconds/{name}": spent for name, spent in run.seconds.items()}
        self.spent.add(run.metrics)
        run.metrics |= {f"spent/{axis}": total for axis, total in self.spent.totals.items()}

    def _between(self) -> None:
        every = self.evaluation.every if self.evaluation else 0
        due = every and self.done % every == 0 and self.evaluated < self.done < self.last
        if due:
            self._listen()
            self._consider(self.evaluate(final=False))
        self._cool()

    def _cool(self) -> None:
        """Set the share of the learning rates that the next step gets."""
        if self.stop is not None and self.cooling_since is not None and self.stop.cooldown:
            for learner in self.run.learners.values():
                learner.scale_lr(max(self.last - self.done, 0) / self.stop.cooldown)

    def _consider(self, metrics: Mapping[str, float]) -> None:
        if self.stop is None or self.cooling_since is not None or self.done < self.stop.after:
            return
        if self.stop.metric not in metrics:
            raise RunError(
                f"stop: no metric '{self.stop.metric}' in the evaluation; it has: "
                f"{', '.join(sorted(metrics))}."
            )
        if metrics[self.stop.metric] >= self.stop.at_least:
            self.cooling_since = self.done

    def evaluate(self, *, final: bool) -> dict[str, float]:
        """Evaluate the policy as it is now, and write the answers down."""
        answered, metrics = self._answered(final=final)
        self.evaluated = self.done
        return self._record(self.done, answered, metrics)

    def _answered(self, *, final: bool = True) -> tuple[Sequence[Answered], dict[str, float]]:
        """The policy's answers, and what they come to.

        A signal breaks this off, unless other ranks would wait for this one. Seeds are those of the
        step that was the last, also if it is made up for after a resumption.
        """
        assert self.evaluation is not None
        run = replace(self.run, step=max(self.done - 1, 0))
        with self.signals.breaking(run.world.size == 1):
            return self.evaluation(run, final=final, bins=self.bins)

    def _record(
        self, done: int, answered: Sequence[Answered], metrics: dict[str, float]
    ) -> dict[str, float]:
        if self.run.world.rank == 0:
            write(answered, self.folder.evaluation(done))
        notify(self.observers, "on_evaluation", done, metrics)
        return metrics

    def _measure_base(self) -> None:
        """Bin the problems by the first model's success rates, and keep them with the run."""
        assert self.evaluation is not None
        file = self.folder.path / "bins.json"
        if file.exists():
            self.bins = json.loads(file.read_text(encoding="utf-8"))
            return
        answered, metrics = self._answered()
        self.bins = base_bins(answered)
        if self.run.world.rank == 0:
            with replacing(file) as new:
                new.write_text(json.dumps(self.bins), encoding="utf-8")
        answered = binned(answered, self.bins)
        self._record(0, answered, {**metrics, **self.evaluation.summary(answered)})

    @property
    def _stateful(self) -> dict[str, Stateful]:
        ahead = {"gather": self.gather} if isinstance(self.gather, GatherAhead) else {}
        return {**self.parts, **ahead, "session": self}

    def _save(self) -> None:
        path = checkpoint.save(self.folder, self.done, self.run, self._stateful, self.keep)
        notify(self.observers, "on_checkpoint", self.done, path)

    def resume(self) -> None:
        """Continue from the newest finished state, or from the start if there is none."""
        states = self.folder.states()
        if states:
            self.done = checkpoint.load(states[-1][1], self.run, self._stateful)
        if self.run.world.rank == 0:
            self.folder.truncate_logs(self.done, self.evaluated)
        self.run.world.barrier()
        self.run.step = self.done
        self._cool()

    def state_dict(self) -> dict[str, Any]:
        return {
            "cooling_since": self.cooling_since,
            "evaluated": self.evaluated,
            "spent": self.spent.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cooling_since, self.evaluated = state["cooling_since"], state["evaluated"]
        self.spent.load_state_dict(state["spent"])

    def _listen(self) -> None:
        """End here if any rank was asked to; all ranks agree.

        Raises:
            Interrupted: one was.
        """
        world, own = self.run.world, self.signals.asked
        if any(world.map(lambda items: [own for _ in items], range(world.size))):
            raise Interrupted

    def _finish(self) -> None:
        partial = self.folder.final.with_name("final.partial")  # kept, should the evaluation fail
        self.run.learners["policy"].save(partial)
        if self.evaluation is not None:
            self._listen()
            self.evaluate(final=True)
        if self.run.world.rank == 0:
            partial.rename(self.folder.final)
