"""Critics that need no model: they say what the verifier and the problem already know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from didact.core.protocols import Failed, Names, Run
from didact.core.types import Feedback, Trajectory

Said = Feedback | Failed


def each_critic(judge: Callable[..., Said]) -> Callable[..., Sequence[Said]]:
    """Lift a plain function of one trajectory to a critic of many.

    Keyword-only parameters of the function stay settings. What it raises becomes `Failed`, which
    the critique stage counts.
    """

    @wraps(judge)
    def critic(trajectories: Sequence[Trajectory], run: Run, **settings: Any) -> Sequence[Said]:
        return [_heard(judge, trajectory, settings) for trajectory in trajectories]

    return critic


@dataclass(frozen=True)
class Indicative:
    """Says whether the answer is right, in one sentence and nothing more.

    The indicative critique of Critique-GRPO, arXiv:2506.03106 ("simple" in its release).

    Attributes:
        right, wrong: what is said of a success and of a failure.
    """

    right: str = "The answer is correct."
    wrong: str = "The answer is incorrect."

    @property
    def needs(self) -> Names:
        return frozenset({"success"})

    def __call__(self, trajectories: Sequence[Trajectory], run: Run) -> Sequence[Said]:
        return [_heard(self._say, trajectory) for trajectory in trajectories]

    def _say(self, trajectory: Trajectory) -> Feedback:
        return Feedback(self.right if _solved(trajectory) else self.wrong, "indicative")


@dataclass(frozen=True)
class IndicativeWithAnswer:
    """Says whether the answer is right, and the gold answer, in one sentence.

    The indicative critique with ground truth of Critique-GRPO, arXiv:2506.03106 ("simple_gt"),
    which its released run uses. It hands the answer to the policy.

    Attributes:
        right, wrong: what is said of a success and of a failure; {answer} is the gold answer.
    """

    right: str = "The answer is correct: it is {answer}."
    wrong: str = "The answer is incorrect: it should be {answer}."

    @property
    def needs(self) -> Names:
        return frozenset({"success"})

    def __call__(self, trajectories: Sequence[Trajectory], run: Run) -> Sequence[Said]:
        return [_heard(self._say, trajectory) for trajectory in trajectories]

    def _say(self, trajectory: Trajectory) -> Said:
        if trajectory.prompt.answer is None:
            return Failed(f"problem '{trajectory.prompt.id}' has no answer")
        said = self.right if _solved(trajectory) else self.wrong
        text = said.replace("{answer}", answer_text(trajectory.prompt.answer))
        return Feedback(text, "indicative_with_answer")


@dataclass(frozen=True)
class ReferenceSolution:
    """Says whether the answer is right, and shows the problem's first demonstration if it is not.

    Attributes:
        right, wrong: what is said of a success and of a failure; {solution} is the demonstration.
    """

    right: str = "The answer is correct."
    wrong: str = "The answer is incorrect. This is a correct solution:\n{solution}"

    @property
    def needs(self) -> Names:
        return frozenset({"success"})

    def __call__(self, trajectories: Sequence[Trajectory], run: Run) -> Sequence[Said]:
        return [_heard(self._say, trajectory) for trajectory in trajectories]

    def _say(self, trajectory: Trajectory) -> Said:
        said = self.right if _solved(trajectory) else self.wrong
        shown = trajectory.prompt.problem.demonstrations
        if "{solution}" in said and not shown:
            return Failed(f"problem '{trajectory.prompt.id}' has no demonstration")
        text = said.replace("{solution}", shown[0]) if shown else said
        return Feedback(text, "reference_solution")


def answer_text(answer: Any) -> str:
    """A gold answer as one would write it; several accepted ones are joined by "or"."""
    if isinstance(answer, list | tuple):
        return " or ".join(map(answer_text, answer))
    return str(answer)


def _heard(
    judge: Callable[..., Said], trajectory: Trajectory, settings: Mapping[str, Any] | None = None
) -> Said:
    try:
        return judge(trajectory, **(settings or {}))
    except Exception as error:  # recorded, and counted by the critique stage
        return Failed(f"{type(error).__name__}: {error}")


def _solved(trajectory: Trajectory) -> bool:
    if "success" not in trajectory.signals:
        raise LookupError(f"a trajectory of origin '{trajectory.origin}' was not scored")
    return trajectory.signals["success"] >= 1.0
