"""Seeds from stable names, so that results depend neither on batching nor on ranks."""

import hashlib
from collections.abc import Callable


def seed_of(*names: object) -> int:
    """A 63-bit seed of the given names, e.g. `seed_of(run.seed, step, prompt.id, sample)`.

    Stable across processes and machines, unlike Python's salted `hash`.
    """
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seeds_after(*names: object) -> Callable[..., int]:
    """`seed_of(*names, *last)` as a function of one or more last names, hashing the others once."""
    known = hashlib.blake2b("\x1f".join([*map(str, names), ""]).encode(), digest_size=8)

    def seed(*last: object) -> int:
        whole = known.copy()
        whole.update("\x1f".join(map(str, last)).encode())
        return int.from_bytes(whole.digest(), "big") >> 1

    return seed
