"""Seeds from stable names, so that results depend neither on batching nor on ranks."""

import hashlib


def seed_of(*names: object) -> int:
    """A 63-bit seed of the given names, e.g. `seed_of(run.seed, step, prompt.id, sample)`.

    Stable across processes and machines, unlike Python's salted `hash`.
    """
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
