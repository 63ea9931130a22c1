"""What stages report adds up over a step in which they run more than once."""

import pytest
import torch

from didact.core.errors import RewardError
from didact.core.protocols import Failed, Run
from didact.core.score import Score, Weighted
from didact.core.stages import Keep
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.core.where import Where


def group(*rewards: float) -> Group:
    """A group whose members carry the given rewards as text."""
    prompt = Prompt("p", torch.tensor([1]), Problem("p", "q"))
    members = []
    for reward in rewards:
        tokens = torch.tensor([2, 3])
        members.append(
            Trajectory(prompt, tokens, torch.ones(2, dtype=torch.bool), "policy", text=str(reward))
        )
    return Group(prompt, tuple(members))


@pytest.fixture
def run() -> Run:
    from didact.core.world import Alone

    nothing: dict = {}
    return Run(0, nothing, nothing, nothing, nothing, None, Alone(), None, None)  # type: ignore[arg-type]


def test_two_scorings_of_a_step_report_the_mean_over_everything_scored(run):
    score = Score({"r": Weighted(lambda rows: [float(row.text) for row in rows])})
    score([group(1.0, 1.0, 1.0)], run)
    score([group(0.0)], run)
    assert run.metrics["reward/policy"] == 0.75
    assert run.metrics["scored/policy"] == 4


def test_dropped_groups_and_members_are_counted_over_all_keeps_of_a_step(run):
    score = Score({"r": Weighted(lambda rows: [float(row.text) for row in rows])})
    groups = score([group(1.0, 0.0, 0.0), group(0.0, 0.0)], run)
    groups = Keep(where=Where({"success_rate": {"above": 0}}))(groups, run)
    Keep(members=Where({"success": 1}))(groups, run)
    assert run.metrics["keep/groups_dropped"] == 1
    assert run.metrics["keep/members_dropped"] == 2


def test_a_tolerated_failure_is_told_with_its_reason_and_never_scores_0(run, caplog):
    def some(rows):
        return [Failed("no answer") if row.text == "0.5" else 1.0 for row in rows]

    (scored,) = Score({"r": Weighted(some)}, tolerate=0.5)([group(1.0, 0.5, 1.0)], run)
    assert [member.signals["reward"] for member in scored.members] == [1.0, 1.0]
    assert scored.signals["success_rate"] == run.metrics["reward/failed"] == 1.0
    assert caplog.messages == ["1 of 3 rewards failed: reward/r: no answer"]


@pytest.mark.parametrize("value", [None, "much", float("nan"), float("inf")])
def test_a_reward_of_many_that_gives_no_number_has_failed(run, value):
    score = Score({"r": Weighted(lambda rows: [value for _ in rows])})
    with pytest.raises(
        RewardError, match=rf"1 of 1 rewards failed .* reward/r: returned .?{value}"
    ):
        score([group(1.0)], run)
