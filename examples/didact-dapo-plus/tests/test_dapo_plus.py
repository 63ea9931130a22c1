"""The sampler and the stage keep their promises and do what they say, and the recipe trains."""

from dataclasses import replace

from didact_dapo_plus import Resting, SilenceTruncated

from didact.testing import Problems, check, groups, make_run, train_tiny


def test_contract(part):
    check(part)


def ids(problems):
    return [problem.id for problem in problems]


def test_a_problem_whose_group_was_dropped_rests_and_comes_back():
    sampler = Resting(Problems(4), prompts=2, rest=2)
    assert ids(sampler.draw(0)) == ["sum/0", "sum/1"]
    sampler.observe(groups([Problems(4)[1]]))  # sum/0 did not survive step 0: it rests in 1 and 2
    assert ids(sampler.draw(1)) == ["sum/2", "sum/3"]
    sampler.observe(groups([Problems(4)[2], Problems(4)[3]]))
    assert ids(sampler.draw(2)) == ["sum/1", "sum/2"]
    sampler.observe(groups([Problems(4)[1], Problems(4)[2]]))
    assert ids(sampler.draw(3)) == ["sum/3", "sum/0"]


def test_when_all_rest_problems_are_drawn_all_the_same():
    sampler = Resting(Problems(4), prompts=4)
    sampler.draw(0)
    sampler.observe([])
    assert len(sampler.draw(1)) == 4


def test_truncated_members_lose_their_loss_and_stay_in_their_group():
    group = groups()[0]
    first, *others = group.members
    given = replace(group, members=(replace(first, truncated=True), *others))
    (found,) = SilenceTruncated()([given], make_run())
    assert len(found.members) == len(group.members)
    assert [bool(m.trainable.any()) for m in found.members] == [False, True, True]


def test_the_recipe_trains(tmp_path):
    assert (train_tiny("dapo_plus", out=tmp_path / "run") / "final").exists()
