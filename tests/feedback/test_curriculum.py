"""Samplers that learn from how it went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch

from didact.core.errors import RecipeError, RunError
from didact.core.types import Group, Problem, Prompt
from didact.feedback.curriculum import Filtered, Prioritized, easiest, failure_shares
from didact.feedback.permutation import permuted


@dataclass
class Numbers:
    """A task of numbered problems; the level is the number, from hard to easy."""

    size: int

    def __getitem__(self, index):
        return Problem(f"n{index}", f"{index}?", metadata={"level": self.size - index, "odd": "x"})

    def __len__(self):
        return self.size


def answered(tools, problems, rate):
    members = (tools.said("x"),)
    groups = [tools.group(p.id) for p in problems]
    return [
        replace(g, members=members, signals={"success_rate": rate(p)})
        for g, p in zip(groups, problems, strict=True)
    ]


def test_shares_are_those_of_the_formula():
    """(0, .5, 1, .75) / 2.25, by arithmetic."""
    shares = failure_shares(torch.tensor([1.0, 0.5, 0.0, 0.25], dtype=torch.float64))
    assert shares.tolist() == pytest.approx([0, 2 / 9, 4 / 9, 3 / 9], abs=1e-12)
    assert failure_shares(torch.ones(4)).tolist() == [0.25] * 4
    uniform = failure_shares(torch.tensor([1.0, 0.3]), exponent=0.0)
    assert uniform.tolist() == [0.5, 0.5]


def test_draws_follow_the_shares(tools):
    rates = {"n0": 1.0, "n1": 0.5, "n2": 0.0, "n3": 0.25}
    sampler = Prioritized(Numbers(4), prompts=4, floor=0.0, seed=1)
    sampler.observe(answered(tools, sampler.draw(0), lambda p: rates[p.id]))
    sampler.prompts = 1
    drawn = Counter(sampler.draw(1)[0].id for _ in range(4000))
    found = [drawn[f"n{at}"] / 4000 for at in range(4)]
    assert found == pytest.approx([0, 2 / 9, 4 / 9, 3 / 9], abs=0.03)


def test_a_draw_has_no_problem_twice_and_a_floor_brings_solved_ones_back(tools):
    sampler = Prioritized(Numbers(6), prompts=3, floor=0.05)
    seen = set()
    for step in range(60):
        problems = sampler.draw(step)
        assert len({p.id for p in problems}) == 3
        sampler.observe(answered(tools, problems, lambda p: 1.0))
        seen |= {p.id for p in problems} if step > 20 else set()
    assert len(seen) == 6


def test_without_a_floor_all_solved_problems_fill_up_a_draw_in_turn(tools):
    sampler = Prioritized(Numbers(6), prompts=6, floor=0.0)
    sampler.observe(answered(tools, sampler.draw(0), lambda p: float(p.id != "n3")))
    sampler.prompts = 2
    drawn = Counter(p.id for step in range(60) for p in sampler.draw(step))
    assert drawn["n3"] == 60 and all(drawn[f"n{at}"] > 3 for at in (0, 1, 2, 4, 5))


def test_a_group_none_of_whose_answers_could_be_scored_teaches_nothing(tools):
    """A demonstration in it was scored; its success rate would be that of the policy's answers."""
    sampler = Prioritized(Numbers(2), prompts=1)
    (first,) = sampler.draw(0)
    shown = tools.said("x").with_signals(reward=1.0)
    sampler.observe([replace(tools.group(first.id), members=(shown,))])
    assert sampler.state_dict()["rates"] == {}


def test_a_new_rate_moves_the_known_one_part_of_the_way(tools):
    sampler = Prioritized(Numbers(1), prompts=1, rate=0.25)
    for success in (1.0, 0.0):
        sampler.observe(answered(tools, sampler.draw(0), lambda p, s=success: s))
    assert sampler.state_dict()["rates"] == {"n0": 0.75}


def test_the_curriculum_opens_from_easy_to_hard():
    assert easiest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 0.5, 1).tolist() == [1, 3]
    assert easiest(torch.tensor([3.0, 1.0, 2.0]), 0.1, 2).tolist() == [1, 2]
    sampler = Prioritized(Numbers(40), prompts=4, by="level", first=0.25, over=10)

    def hardest(step):
        return max(p.metadata["level"] for _ in range(80) for p in sampler.draw(step))

    assert hardest(0) == 10 and hardest(5) == 25 and hardest(10) == 40


def test_a_difficulty_that_is_no_number_is_an_error():
    with pytest.raises(RecipeError, match="'odd' of problem 'n0' is 'x', not a number"):
        Prioritized(Numbers(3), prompts=1, by="odd")
    with pytest.raises(RecipeError, match="has 3 problems"):
        Prioritized(Numbers(3), prompts=4)
    with pytest.raises(RecipeError, match="'rate'"):
        Prioritized(Numbers(3), prompts=1, rate=0.0)


@pytest.mark.parametrize("make", [Prioritized, Filtered])
def test_a_sampler_goes_on_from_its_state(make, tools):
    one = make(Numbers(12), prompts=4, seed=3)

    def go(sampler, steps):
        drawn = []
        for step in steps:
            problems = sampler.draw(step)
            drawn.append([p.id for p in problems])
            sampler.observe(answered(tools, problems, lambda p: float(int(p.id[1:]) % 3 == 0)))
        return drawn

    go(one, range(5))
    two = make(Numbers(12), prompts=4, seed=3)
    two.load_state_dict(one.state_dict())
    assert go(one, range(5, 12)) == go(two, range(5, 12))
    with pytest.raises(RunError, match="task of 12 problems"):
        make(Numbers(13), prompts=4).load_state_dict(one.state_dict())


def test_without_scores_there_is_nothing_to_learn_from(tools):
    sampler = Filtered(Numbers(4), prompts=2)
    problems = sampler.draw(0)
    group = replace(tools.group(problems[0].id), members=(tools.said("x"),))
    with pytest.raises(RecipeError, match="needs 'score'"):
        sampler.observe([group])
    sampler.observe([tools.group(problems[0].id)])  # dropped before it was scored


def test_what_a_stage_drops_after_scoring_is_learnt_from(tools):
    sampler = Prioritized(Numbers(4), prompts=2, rate=1.0)
    first, second = sampler.draw(0)
    dropped = Group(Prompt(first.id, torch.tensor([1]), first), signals={"success_rate": 1.0})
    sampler.observe([*answered(tools, [second], lambda p: 0.5), dropped])
    assert sampler.state_dict()["rates"] == {first.id: 1.0, second.id: 0.5}


def test_solved_and_failed_problems_rest_for_their_epochs(tools):
    """Of 6 problems 2 are solved in the first epoch, so two epochs go without them."""
    sampler = Filtered(Numbers(6), prompts=2, solved=2, failed=0)

    def epoch():
        drawn = []
        while (len(drawn) < 6 and sampler.state_dict()["position"] % 6 != 0) or not drawn:
            problems = sampler.draw(0)
            drawn += [p.id for p in problems]
            sampler.observe(answered(tools, problems, lambda p: float(p.id in ("n1", "n4"))))
        return drawn

    assert sorted(epoch()) == [f"n{at}" for at in range(6)]
    second, third = epoch(), epoch()
    assert not {"n1", "n4"} & {*second, *third}
    later = [p for _ in range(6) for p in epoch()]
    assert {"n1", "n4"} <= set(later)


def test_when_all_rest_further_epochs_begin(tools):
    sampler = Filtered(Numbers(3), prompts=3, failed=4)
    sampler.observe(answered(tools, sampler.draw(0), lambda p: 0.0))
    assert len(sampler.draw(1)) == 3
    assert sampler.state_dict()["position"] == 18


def test_problems_that_retire_for_good_do_not_hold_up_a_draw(tools, monkeypatch):
    """A million epochs of 40 problems would be searched for an hour."""
    asked = []
    monkeypatch.setattr(
        "didact.feedback.curriculum.permuted",
        lambda place, size, *names: asked.append(place) or permuted(place, size, *names),
    )
    sampler = Filtered(Numbers(40), prompts=6, solved=1_000_000)
    first = []
    for step in range(6):
        first += sampler.draw(step)
        sampler.observe(answered(tools, first[-6:], lambda p: 1.0))
    last = {problem.id for problem in sampler.draw(6)}
    assert {f"n{at}" for at in range(40)} - {problem.id for problem in first} < last
    assert len(last) == 6 and len(asked) < 200
