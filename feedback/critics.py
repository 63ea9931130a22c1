"""Critics that need no model: they say what the verifier and the problem already know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from didact.core.protocols import CritiqueProvider, Failed, Names, Run
from didact.core.types import Feedback, Trajectory

Judge = Callable[[Trajectory], Feedback | Failed]


@dataclass(frozen=True)
class EachCritic:
    """A critic made of a plain function of one trajectory; see `each_critic`."""

    judge: Judge
    needs: Names

    def __call__(self, trajectories: Sequence[Trajectory], run: Run) -> Sequence[Feedback | Failed]:
        return [self._one(trajectory) for trajectory in trajectories]

    def _one(self, trajectory: Trajectory) -> Feedback | Failed:
        unknown = self.needs - trajectory.signals.keys() - {"members", "feedback"}
        if unknown:
            return Failed(f"a trajectory of origin '{trajectory.origin}' has no {sorted(unknown)}")
        try:
            return self.judge(trajectory)
        except Exception as error:  # recorded and counted by the critique stage
            return Failed(f"{type(error).__name__}: {error}")


def each_critic(judge: Judge, needs: Iterable[str] = ("members",)) -> EachCritic:
    """Lift a plain function of one trajectory to a critic; what it raises becomes `Failed`.

    Args:
        judge: says something about one trajectory.
        needs: signals it reads, e.g. "success"; a trajectory without them is `Failed`.
    """
    return EachCritic(judge, frozenset(needs))


def indicative(
    right: str = "The answer is correct.", wrong: str = "The answer is incorrect."
) -> CritiqueProvider:
    """Says whether the answer is right, in one sentence and nothing more.

    The indicative critique of Critique-GRPO, arXiv:2506.03106 ("simple" in its release).

    Args:
        right, wrong: what is said of a success and of a failure.
    """

    def judge(trajectory: Trajectory) -> Feedback:
        return Feedback(right if _solved(trajectory) else wrong, "indicative")

    return each_critic(judge, {"success"})


def indicative_with_answer(
    right: str = "The answer is correct: it is {answer}.",
    wrong: str = "The answer is incorrect: it should be {answer}.",
) -> CritiqueProvider:
    """Says whether the answer is right, and the gold answer, in one sentence.

    The indicative critique with ground truth of Critique-GRPO, arXiv:2506.03106 ("simple_gt"),
    which its released run uses. It hands the answer to the policy.

    Args:
        right, wrong: what is said of a success and of a failure; {answer} is the gold answer.
    """

    def judge(trajectory: Trajectory) -> Feedback | Failed:
        if trajectory.prompt.answer is None:
            return Failed(f"problem '{trajectory.prompt.id}' has no answer")
        said = right if _solved(trajectory) else wrong
        text = said.replace("{answer}", answer_text(trajectory.prompt.answer))
        return Feedback(text, "indicative_with_answer")

    return each_critic(judge, {"success"})


def reference_solution(
    right: str = "The answer is correct.",
    wrong: str = "The answer is incorrect. This is a correct solution:\n{solution}",
) -> CritiqueProvider:
    """Says whether the answer is right, and shows the problem's first demonstration if it is not.

    Args:
        right, wrong: what is said of a success and of a failure; {solution} is the demonstration.
    """

    def judge(trajectory: Trajectory) -> Feedback | Failed:
        said = right if _solved(trajectory) else wrong
        shown = trajectory.prompt.problem.demonstrations
        if "{solution}" in said and not shown:
            return Failed(f"problem '{trajectory.prompt.id}' has no demonstration")
        text = said.replace("{solution}", shown[0]) if shown else said
        return Feedback(text, "reference_solution")

    return each_critic(judge, {"success"})


def answer_text(answer: Any) -> str:
    """A gold answer as one would write it; several accepted ones are joined by "or"."""
    if isinstance(answer, (list, tuple)):
        return " or ".join(map(answer_text, answer))
    return str(answer)


def _solved(trajectory: Trajectory) -> bool:
    return trajectory.signals["success"] >= 1.0
