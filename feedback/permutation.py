"""A random permutation of any size that is computed entry by entry, never stored."""

from collections.abc import Sequence
from functools import lru_cache

from didact.core.seeds import seed_of, seeds_after

ROUNDS = 6
KEPT = 2**12
"""Most numbers of which a round remembers what it makes: all, of up to 2^24 entries."""


def permuted(index: int, size: int, *names: object) -> int:
    """Where a permutation of `range(size)` sends `index`; other names (or seeds), another one.

    A Feistel network on the smallest even number of bits that holds `size`, walked until it falls
    inside the range (cycle walking; Black and Rogaway 2002, section 4). Takes a few microseconds
    per round whatever the size.

    Raises:
        IndexError: the index is outside of the range.
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} is outside of a permutation of {size} entries.")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, rounds = (1 << half) - 1, _rounds(half, names)
    while True:
        left, right = index >> half, index & mask
        for mixed in rounds:
            left, right = right, left ^ mixed[right]
        index = left << half | right
        if index < size:
            return index


class _Round(dict[int, int]):
    """What a round makes of the right half of an index, remembered."""

    def __init__(self, half: int, seed: int, turn: int) -> None:
        self.mask, self.mixed = (1 << half) - 1, seeds_after("permutation", seed, half, turn)

    def __missing__(self, right: int) -> int:
        made = self.mixed(right) & self.mask
        if len(self) < KEPT:
            self[right] = made
        return made


@lru_cache(maxsize=64)
def _rounds(half: int, names: tuple[object, ...]) -> Sequence[_Round]:
    return [_Round(half, seed_of(*names), turn) for turn in range(ROUNDS)]
