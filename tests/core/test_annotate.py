"""The advantage stage calls its estimator once, and writes what it returns."""

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from didact.core.annotate import Annotate
from didact.core.bind import adds, adds_of, columns_of
from didact.core.errors import RecipeError
from didact.core.pipeline import Pipeline
from didact.core.schedule import Schedule, Varying
from didact.core.score import Weighted
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.core.where import Where


@dataclass
class Run:
    """What the stage reads of a run."""

    seed: int = 3
    step: int = 0
    metrics: dict = field(default_factory=dict)


def prompt(name):
    return Prompt(name, torch.tensor([1]), Problem(name, name))


def row(name, reward=0.0, length=3, origin="policy", **more):
    trainable = torch.ones(length, dtype=torch.bool)
    signals = {"reward": reward, **more}
    return Trajectory(prompt(name), torch.arange(length), trainable, origin, signals=signals)


def group(name, *members, **signals):
    return Group(prompt(name), members, signals)


def mean_free(rewards, groups):
    count = torch.bincount(groups).double()
    return rewards - (torch.zeros_like(count).index_add_(0, groups, rewards) / count)[groups]


GROUPS = [
    group("a", row("a", 1.0), row("a", 0.0)),
    group("empty"),
    group("b", row("b", 3.0, length=5), row("b", 1.0, length=1), row("b", 2.0)),
]


def written(groups, name="advantages"):
    return [[m.signals.get(name) for m in g.members] for g in groups]


@dataclass
class Scaled:
    """An estimator with a list among its settings: an object without a hash."""

    scales: list = field(default_factory=lambda: [0.5, 4.0])

    def __call__(self, rewards, groups):
        return mean_free(rewards, groups) * torch.tensor(self.scales).prod()


def test_an_estimator_need_not_be_hashable():
    assert written(Annotate(Scaled())(GROUPS, Run())) == [[1.0, -1.0], [], [2.0, -2.0, 0.0]]


def test_advantages_are_written_as_signals_and_empty_groups_pass():
    out = Annotate(mean_free)(GROUPS, Run())
    assert written(out) == [[0.5, -0.5], [], [1.0, -1.0, 0.0]]
    assert out[1] is GROUPS[1]


def test_the_estimator_is_called_once_with_what_it_names():
    seen = []

    def estimator(rewards, groups, lengths, mask, on_policy, draws):
        seen.append((groups.tolist(), lengths.tolist(), tuple(mask.shape)))
        assert rewards.dtype == torch.float64
        assert mask.sum(1).tolist() == lengths.tolist()
        assert on_policy.tolist() == [1.0] * 5
        assert ((draws >= 0) & (draws < 1)).all() and len(draws.unique()) == 5
        return rewards

    Annotate(estimator)(GROUPS, Run())
    assert seen == [([0, 0, 1, 1, 1], [3, 3, 5, 1, 3], (5, 5))]


def test_columns_are_cut_to_each_response_and_zero_off_the_mask():
    observed = row("a", 1.0, length=3)
    observed = Trajectory(
        observed.prompt,
        observed.tokens,
        torch.tensor([True, False, True]),
        "policy",
        signals={"reward": 1.0},
    )
    groups = [group("a", observed, row("a", 2.0, length=2))]

    @adds("advantages", "returns")
    def spread(rewards, mask):
        return {"advantages": rewards, "returns": rewards[:, None].expand(mask.shape)}

    first, second = Annotate(spread)(groups, Run())[0].members
    assert first.columns["returns"].tolist() == [1.0, 0.0, 1.0]
    assert second.columns["returns"].tolist() == [2.0, 2.0]
    assert first.signals["advantages"] == 1.0


def test_stored_columns_and_group_signals_are_read_by_name():
    def estimator(values, baseline):
        return values.sum(1) - baseline

    members = [
        row("a", length=2).with_columns(values=torch.tensor([1.0, 2.0])),
        row("a", length=1).with_columns(values=torch.tensor([5.0])),
    ]
    out = Annotate(estimator)([group("a", *members, baseline=0.5)], Run())
    assert written(out) == [[2.5, 4.5]]


def test_bind_reads_a_parameter_from_another_name():
    shaped = [group("a", row("a", 0.0, shaped=4.0), row("a", 0.0, shaped=2.0))]
    stage = Annotate(mean_free, bind={"rewards": "shaped"})
    assert stage.needs == {"members", "shaped"}
    assert written(stage(shaped, Run())) == [[1.0, -1.0]]


def test_bind_of_a_parameter_that_is_not_read_is_an_error():
    with pytest.raises(RecipeError, match="'reward', which the estimator does not read"):
        _ = Annotate(mean_free, bind={"reward": "x"}).needs


def test_needs_and_adds_come_from_the_signature():
    @adds("advantages", "returns")
    def estimator(rewards, groups, mask, values, *, gamma=1.0):
        raise NotImplementedError

    bound = partial(estimator, gamma=0.5)
    assert columns_of(bound) == ("rewards", "groups", "mask", "values")
    assert Annotate(bound).needs == {"members", "reward", "values"}
    assert Annotate(bound).adds == adds_of(estimator) == {"advantages", "returns"}
    assert Annotate(mean_free, where=Where({"success_rate": 0.5})).needs >= {"success_rate"}
    with pytest.raises(RecipeError, match="'values'"):
        Pipeline([("advantage", Annotate(bound))])


def test_a_setting_may_follow_a_schedule():
    def scaled(rewards, *, by):
        return rewards * by

    stage = Annotate(Varying(partial(partial, scaled), {"by": Schedule(linear=(1, 3), over=2)}))
    assert stage.needs == {"members", "reward"}
    assert written(stage([GROUPS[0]], Run(step=2))) == [[3.0, 0.0]]


def test_an_object_may_be_the_estimator():
    class Counting:
        adds = frozenset({"rank"})

        def __call__(self, rewards):
            return {"rank": rewards.argsort().double()}

    stage = Annotate(Counting())
    assert stage.adds == {"rank"}
    assert written(stage([GROUPS[0]], Run()), "rank") == [[1.0, 0.0]]


def test_reward_parts_and_weights_follow_the_recipe():
    rewards = {"right": Weighted(None, 1.0), "form": Weighted(None, 0.25)}

    def estimator(reward_parts, reward_weights):
        return (reward_parts * reward_weights).sum(1)

    stage = Annotate(estimator, rewards=rewards)
    assert stage.needs == {"members", "reward/right", "reward/form"}
    one = row("a", **{"reward/right": 1.0, "reward/form": 2.0})
    assert written(stage([group("a", one)], Run())) == [[1.5]]
    with pytest.raises(RecipeError, match="reward_parts"):
        Annotate(estimator)([group("a", one)], Run())


def test_members_that_are_not_chosen_neither_count_nor_get_a_value():
    mixed = group("a", row("a", 1.0), row("a", 9.0, origin="demonstration"), row("a", 0.0))
    stage = Annotate(mean_free, members=Where({"origin": "policy"}))
    assert written(stage([mixed], Run())) == [[0.5, None, -0.5]]


def test_groups_that_do_not_match_stay_as_they_are():
    groups = [group("a", row("a", 1.0), solved=1.0), group("b", row("b", 1.0), solved=0.0)]
    out = Annotate(mean_free, where=Where({"solved": 0.0}))(groups, Run())
    assert out[0] is groups[0]
    assert written(out) == [[None], [0.0]]


def test_draws_differ_by_step_and_not_by_what_else_is_in_the_batch():
    def draw(draws):
        return draws

    def drawn(groups, step=0):
        return written(Annotate(draw)(groups, Run(step=step)))

    assert drawn(GROUPS)[2] == drawn([GROUPS[2]])[0]
    assert drawn(GROUPS, step=0) != drawn(GROUPS, step=1)


def test_a_result_that_is_not_finite_names_the_prompt():
    with pytest.raises(RecipeError, match=r"not finite on 1 of 5 .* prompt 'b'"):
        Annotate(lambda rewards: 1 / (rewards - 2.0))(GROUPS, Run())


def test_a_result_may_hold_anything_where_no_loss_falls():
    def estimator(mask):
        return torch.where(mask, 1.0, torch.nan)

    out = Annotate(estimator)([GROUPS[2]], Run())[0]
    assert all(m.columns["advantages"].isfinite().all() for m in out.members)


def test_a_result_of_the_wrong_shape_or_name_is_an_error():
    with pytest.raises(RecipeError, match=r"shape \[1\]; expected \[5\] or \[5, 5\]"):
        Annotate(lambda rewards: rewards[:1])(GROUPS, Run())
    with pytest.raises(RecipeError, match="returned 'odd', but declares 'advantages'"):
        Annotate(lambda rewards: {"odd": rewards})(GROUPS, Run())


def test_a_missing_signal_says_who_lacks_it():
    with pytest.raises(RecipeError, match=r"'baseline' is missing on 5 of 5 .*prompt 'a'"):
        Annotate(lambda baseline: baseline)(GROUPS, Run())


def test_a_second_estimate_replaces_the_first_even_as_a_column():
    once = Annotate(mean_free)([GROUPS[0]], Run())
    twice = Annotate(lambda mask: mask.double())(once, Run())[0].members[0]
    assert "advantages" not in twice.signals
    assert twice.columns["advantages"].tolist() == [1.0, 1.0, 1.0]
