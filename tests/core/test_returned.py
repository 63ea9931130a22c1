"""What a part returns is looked at before it is used: nothing of another shape or kind is spread,
skipped or read out of order in silence."""

from dataclasses import dataclass, replace

import pytest
import torch

from didact.algorithms.rules import Bound, Sum, Term
from didact.core.annotate import Annotate
from didact.core.errors import PluginError, RecipeError, RewardError
from didact.core.pipeline import Pipeline
from didact.core.protocols import Failed
from didact.core.score import Score, Weighted
from didact.core.stages import Critique, Rollout
from didact.core.types import Feedback
from didact.plugins.testing.data import groups, make_run
from didact.plugins.testing.part import Example
from didact.plugins.testing.tensors import outcome, world


def nll(logprobs, advantages, old_logprobs):
    return -logprobs


def value_of(loss, weight=None):
    times = [Bound(weight)] if weight else []
    given = world(nll, Example())
    return outcome(Sum([Term("t", Bound(loss), times=times)]), given).value


@pytest.mark.parametrize(
    ("reduced", "said"),
    [
        (lambda logprobs: -logprobs.mean(), r"shape \[\]"),
        (lambda logprobs: -logprobs.mean(0, keepdim=True), r"shape \[1, 7\]"),
        (lambda logprobs: -logprobs.mean(1, keepdim=True), r"shape \[6, 1\]"),
        (lambda logprobs: -logprobs.mean(0), r"shape \[7\]"),
        (lambda logprobs: 1.0, "float"),
        (lambda logprobs: None, "NoneType"),
    ],
    ids=["scalar", "of tokens", "of rows", "flat", "a float", "nothing"],
)
def test_a_loss_that_is_not_one_number_per_token_is_refused(reduced, said):
    with pytest.raises(PluginError, match=f"returned {said}; expected \\[6, 7\\]"):
        value_of(reduced)


@pytest.mark.parametrize(
    "weight",
    [
        lambda advantages: advantages.mean(),
        lambda old_logprobs: old_logprobs.mean(0, keepdim=True),
        lambda advantages: advantages.tolist(),
    ],
    ids=["scalar", "of tokens", "a list"],
)
def test_a_weight_that_is_neither_of_rows_nor_of_tokens_is_refused(weight):
    with pytest.raises(PluginError, match=r"expected \[6, 7\] or \[6\]"):
        value_of(nll, weight)


def test_a_weight_of_rows_and_the_same_of_tokens_give_the_same():
    rows = value_of(nll, lambda advantages: advantages)
    tokens = value_of(nll, lambda advantages, logprobs: advantages[:, None].expand(logprobs.shape))
    assert rows == tokens


@dataclass(frozen=True)
class Made:
    """A stage that returns what a function makes of its groups."""

    make: object
    needs = frozenset()
    adds = frozenset({"members", "reward"})

    def __call__(self, groups, run):
        return self.make(groups)


def through(make):
    return Pipeline([("mine", Made(make))])(groups(), make_run())


def test_a_stage_that_yields_its_groups_gives_them_as_often_as_they_are_read():
    given = through(lambda groups: (group for group in groups))
    assert [len(list(given)) for _ in range(2)] == [4, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: None,
        lambda groups: [member for group in groups for member in group.members],
        lambda groups: (groups, {}),
    ],
    ids=["nothing", "members", "a pair"],
)
def test_a_stage_that_returns_something_else_is_refused(make):
    with pytest.raises(PluginError, match=r"stage 'mine' returned .*, not a sequence of Group"):
        through(make)


def test_a_critic_that_yields_has_its_failures_counted():
    def critic(trajectories, run):
        for _ in trajectories:
            yield Failed("no")

    run = make_run()
    Critique(critic)(groups(), run)
    assert run.metrics["critique/failed"] == 10


@pytest.mark.parametrize(
    ("critic", "said"),
    [
        (lambda trajectories, run: ["no" for _ in trajectories], "str, not a sequence of Feedback"),
        (lambda trajectories, run: [Feedback("no", "me")], "1 for 10"),
        (lambda trajectories, run: None, "NoneType"),
    ],
)
def test_a_critic_that_returns_something_else_is_refused(critic, said):
    with pytest.raises(PluginError, match=said):
        Critique(critic)(groups(), make_run())


@dataclass(frozen=True)
class Source:
    """A source that returns what a function makes of its groups."""

    make: object

    def extend(self, groups, run):
        return self.make(groups)


def own(group):
    return [group.members[0]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda groups: [own(group) for group in groups][::-1], "trajectories of another prompt"),
        (lambda groups: [own(group) for group in groups][:1], "1 for 4"),
        (lambda groups: groups, "Group, not a sequence of Sequence"),
        (lambda groups: [["text"] for _ in groups], "str, not a sequence of Trajectory"),
        (lambda groups: None, "NoneType"),
    ],
    ids=["another order", "too few", "groups", "texts", "nothing"],
)
def test_a_source_that_returns_something_else_is_refused(make, said):
    with pytest.raises(PluginError, match=said):
        Rollout(Source(make))(groups(), make_run())


def rewarded(*rewards):
    bare = [
        replace(group, members=tuple(replace(m, signals={}) for m in group.members))
        for group in groups()
    ]
    named = {f"r{at}": Weighted(reward) for at, reward in enumerate(rewards)}
    done = Score(named)(bare, make_run())
    return [member.signals["reward/r0"] for group in done for member in group.members]


def length(trajectories):
    return [float(len(trajectory.tokens)) for trajectory in trajectories]


def sorts(trajectories):
    trajectories.sort(key=lambda trajectory: -len(trajectory.text))
    return [0.0 for _ in trajectories]


def test_a_reward_that_sorts_what_it_is_given_moves_no_other_reward():
    wanted = [float(len(member.tokens)) for group in groups() for member in group.members]
    assert rewarded(length, sorts) == wanted


@pytest.mark.parametrize(
    "make",
    [lambda count: dict.fromkeys(range(count), 5.0), lambda count: {*range(count)}, lambda _: 1.0],
    ids=["dict", "set", "float"],
)
def test_a_reward_that_gives_no_sequence_is_refused(make, request):
    kind = request.node.callspec.id
    with pytest.raises(RewardError, match=f"gave a {kind}, not a sequence"):
        rewarded(lambda trajectories: make(len(trajectories)))


@pytest.mark.parametrize(
    "estimator",
    [
        lambda rewards: rewards.tolist(),
        lambda rewards: None,
        lambda rewards: {"advantages": rewards.tolist()},
        lambda rewards: (rewards, torch.ones(1)),
    ],
)
def test_an_estimator_that_returns_no_tensor_is_refused(estimator):
    with pytest.raises(RecipeError, match=r"'advantages' is .*, not a tensor"):
        Annotate(estimator)(groups(), make_run())
