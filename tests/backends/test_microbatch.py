"""Token-budget micro-batches."""

import random

import pytest

from didact.core.backends.microbatch import plan


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_row_is_dealt_once_within_budget_and_ranks_match(ranks, padded):
    draw = random.Random(0)
    for _ in range(200):
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 40))]
        dealt = plan(lengths, 100, ranks, padded=padded)
        assert len({len(mine) for mine in dealt}) == 1
        rows = sorted(at for mine in dealt for micro in mine for at in micro)
        assert rows == list(range(len(lengths)))
        for micro in (micro for mine in dealt for micro in mine if micro):
            sizes = [lengths[at] for at in micro]
            assert (max(sizes) * len(sizes) if padded else sum(sizes)) <= 100


def test_an_over_long_row_goes_alone():
    dealt = plan([500, 10, 10], 100)
    assert [0] in dealt[0] and [1, 2] in dealt[0]


def test_ranks_share_the_work_even_if_one_micro_batch_would_do():
    first, second = plan([10] * 8, 1000, 2)
    assert [len(first[0]), len(second[0])] == [4, 4]


def test_a_rank_without_rows_gets_an_empty_micro_batch():
    assert plan([10], 100, 2) == [[[0]], [[]]]
    assert plan([], 100, 2) == [[[]], [[]]]


def test_ranks_get_nearly_equal_tokens():
    draw = random.Random(1)
    lengths = [draw.randint(10, 400) for _ in range(256)]
    dealt = plan(lengths, 4096, 4)
    tokens = [sum(lengths[at] for micro in mine for at in micro) for mine in dealt]
    assert max(tokens) < 1.1 * min(tokens)
