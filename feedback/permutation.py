"""A random permutation of any size that is computed entry by entry, never stored."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from didact.core.seeds import seeds_after

ROUNDS = 6


def permuted(index: int, size: int, seed: int) -> int:
    """Where the permutation of `range(size)` with this seed sends `index`.

    A Feistel network on the smallest even number of bits that holds `size`, walked until it falls
    inside the range (cycle walking; Black and Rogaway 2002, section 4). Takes a few microseconds
    per round whatever the size.

    Raises:
        IndexError: the index is outside of the range.
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} is outside of a permutation of {size} entries.")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    value = index
    while True:
        value = _mixed(value, half, seed)
        if value < size:
            return value


def _mixed(value: int, half: int, seed: int) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for mixed in _rounds(half, seed):
        left, right = right, left ^ (mixed(right) & mask)
    return left << half | right


@lru_cache(maxsize=64)
def _rounds(half: int, seed: int) -> Sequence[Callable[[int], int]]:
    """Each remembers what it said of up to 2^10 numbers: all, of up to 2^20 entries."""
    after = [seeds_after("permutation", seed, half, turn) for turn in range(ROUNDS)]
    return [lru_cache(2**10)(mixed) for mixed in after]
