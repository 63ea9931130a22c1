"""Micro-batches by token budget: how the rows of a mini-batch are dealt to forwards and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil


def plan(
    lengths: Sequence[int], max_tokens: int, ranks: int = 1, *, padded: bool = False
) -> list[list[list[int]]]:
    """Deal rows to micro-batches and micro-batches to ranks.

    Every rank gets the same number of micro-batches (ZeRO-3 forwards must match), at least one; an
    empty one stands for a forward without loss. Rows of similar length share a micro-batch, and the
    budget is tightened as far as the number of micro-batches allows, so that ranks do equal work.

    Args:
        lengths: tokens of each row.
        max_tokens: most tokens of a micro-batch; a longer row goes alone.
        ranks: how many processes share the work.
        padded: count the padding: rows x longest instead of the sum.

    Returns:
        For each rank its micro-batches, each a list of row positions in ascending order. A pure
        function of its arguments.
    """
    order = sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    fewest = max(len(_fill(lengths, order, max_tokens, padded)), 1)
    if fewest == ranks == 1:
        return [[sorted(order)]]
    count = ceil(fewest / ranks) * ranks
    low, high = 0, max_tokens
    while low + 1 < high:
        middle = (low + high) // 2
        if len(_fill(lengths, order, middle, padded)) <= count:
            high = middle
        else:
            low = middle
    bins = _fill(lengths, order, high, padded)
    bins.sort(key=lambda rows: -_cost(lengths, rows, padded))
    bins += [[] for _ in range(count - len(bins))]
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    for at, rows in enumerate(bins):
        turn, seat = divmod(at, ranks)
        dealt[seat if turn % 2 == 0 else ranks - 1 - seat].append(sorted(rows))
    return dealt


def _fill(
    lengths: Sequence[int], order: Sequence[int], budget: int, padded: bool
) -> list[list[int]]:
    """Rows in this order into bins; a new bin when the next row does not fit."""
    bins: list[list[int]] = []
    cost = 0
    for at in order:
        if bins:
            longest = lengths[bins[-1][0]]
            cost += longest if padded else lengths[at]
        if not bins or cost > budget:
            bins.append([])
            cost = lengths[at]
        bins[-1].append(at)
    return bins


def _cost(lengths: Sequence[int], rows: Sequence[int], padded: bool) -> int:
    return lengths[rows[0]] * len(rows) if padded else sum(lengths[at] for at in rows)
