"""Samplers and the permutation behind them: epochs, resume, and any size."""

import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest

from didact.core.errors import RecipeError, RunError
from didact.core.protocols import Sampler, Stateful
from didact.core.types import Problem
from didact.feedback.permutation import permuted
from didact.feedback.samplers import Ordered, Shuffled


@dataclass(frozen=True)
class Numbers:
    size: int

    def __getitem__(self, index: int) -> Problem:
        return Problem(str(index), str(index))

    def __len__(self) -> int:
        return self.size


def ids(problems):
    return [int(problem.id) for problem in problems]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_permutation_takes_every_value_once(size, seed):
    assert sorted(permuted(at, size, seed) for at in range(size)) == list(range(size))


def test_a_permutation_sends_an_index_anywhere_with_equal_chances():
    counts = Counter(permuted(0, 5, seed) for seed in range(5000))
    # Binomial(5000, 1/5): 1000 with a standard deviation of 28.
    assert all(abs(counts[value] - 1000) < 5 * 28 for value in range(5))


def test_neighbours_do_not_stay_neighbours():
    order = [permuted(at, 1000, 7) for at in range(1000)]
    # Of 999 pairs a random order keeps 1 as successors on average.
    assert sum(b == a + 1 for a, b in pairwise(order)) < 8


def test_an_index_outside_of_the_permutation_is_an_error():
    with pytest.raises(IndexError):
        permuted(5, 5, 0)


def test_an_epoch_holds_every_problem_once_and_the_next_has_another_order():
    sampler = Shuffled(Numbers(12), prompts=4)
    first, second = ([i for s in range(3) for i in ids(sampler.draw(s))] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_another_seed_is_another_order():
    assert ids(Shuffled(Numbers(100), seed=0).draw(0)) != ids(
        Shuffled(Numbers(100), seed=1).draw(0)
    )


def test_no_problem_is_twice_in_one_draw_and_none_is_lost():
    sampler = Shuffled(Numbers(7), prompts=5)
    draws = [ids(sampler.draw(step)) for step in range(70)]
    assert all(len(set(draw)) == 5 for draw in draws)
    counts = Counter(index for draw in draws for index in draw)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_draw_goes_on_however_often_it_is_called_in_a_step():
    often, once = Shuffled(Numbers(50), prompts=5), Shuffled(Numbers(50), prompts=5)
    assert [ids(often.draw(0)) for _ in range(9)] == [ids(once.draw(step)) for step in range(9)]


@pytest.mark.parametrize("make", [Shuffled, Ordered])
def test_two_steps_and_two_more_are_four(make):
    whole, first, second = (make(Numbers(7), prompts=5) for _ in range(3))
    expected = [ids(whole.draw(step)) for step in range(4)]
    got = [ids(first.draw(step)) for step in range(2)]
    second.load_state_dict(first.state_dict())
    assert got + [ids(second.draw(step)) for step in range(2, 4)] == expected


@pytest.mark.parametrize("make", [Shuffled, Ordered])
def test_a_sampler_does_not_resume_on_another_task(make):
    state = make(Numbers(20)).state_dict()
    with pytest.raises(RunError, match="a task of 20 problems, this one has 21"):
        make(Numbers(21)).load_state_dict(state)


@pytest.mark.parametrize("make", [Shuffled, Ordered])
def test_more_prompts_than_problems_are_refused(make):
    with pytest.raises(RecipeError, match="'prompts' is 8, but the task has 5"):
        make(Numbers(5), prompts=8)


@pytest.mark.parametrize("make", [Shuffled, Ordered])
def test_a_sampler_is_stateful(make):
    sampler: Sampler = make(Numbers(20))
    sampler.observe([])
    assert isinstance(sampler, Stateful)


def test_ordered_begins_again_after_the_last_problem():
    sampler = Ordered(Numbers(5), prompts=3)
    assert [ids(sampler.draw(step)) for step in range(3)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


def test_a_task_of_a_trillion_problems_costs_no_memory_and_no_time():
    begun = time.perf_counter()
    drawn = ids(Shuffled(Numbers(10**12), prompts=64).draw(0))
    assert len(set(drawn)) == 64 and max(drawn) > 10**11
    assert time.perf_counter() - begun < 1
