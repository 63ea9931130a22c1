"""The 25 string functions of the composition task f(g(x)), by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, zip_longest
from math import gcd
from random import Random
from string import ascii_lowercase

VOWELS = "aeiou"
Draw = Callable[[Random], object]


@dataclass(frozen=True)
class Atom:
    """A string function.

    Attributes:
        apply: of a string and its argument, if it takes one; two strings if `binary`.
        says: what it does, in words.
        held_out: only test problems use it.
        argument: draws its second argument; None if it takes none.
        binary: its second argument is a string expression too.
    """

    apply: Callable[..., str]
    says: str
    held_out: bool = False
    argument: Draw | None = None
    binary: bool = False


def word(shortest: int, longest: int) -> Draw:
    """Draws lowercase letters."""
    return lambda rng: "".join(rng.choices(ascii_lowercase, k=rng.randint(shortest, longest)))


def whole(least: int, most: int) -> Draw:
    """Draws a whole number."""
    return lambda rng: rng.randint(least, most)


def permute(s: str) -> str:
    """Character i comes from 3i modulo the length; from 5i, 7i, … where 3 divides the length."""
    step = 3
    while len(s) > 1 and gcd(step, len(s)) != 1:
        step += 2
    return "".join(s[i * step % len(s)] for i in range(len(s)))


def interleave(s: str, other: str) -> str:
    """One character of each in turn; what is left of the longer one behind."""
    return "".join(a + b for a, b in zip_longest(s, other, fillvalue=""))


def rotate(s: str, n: int) -> str:
    """Rotate left by one, n times."""
    return s[n % len(s) :] + s[: n % len(s)] if s else s


def shift(s: str, n: int) -> str:
    """Every ASCII letter n places further in the alphabet, case kept."""
    return "".join(
        chr((ord(c) - base + n) % 26 + base)
        if c.isascii() and c.isalpha() and (base := ord("a" if c.islower() else "A"))
        else c
        for c in s
    )


def number_vowels(s: str) -> str:
    """Vowels of either case become 1 to 5."""
    return s.translate(str.maketrans(VOWELS + VOWELS.upper(), "12345" * 2))


def ensure_digit(s: str, depth: int) -> str:
    """The first string with a digit that a search of this depth meets, or else the string."""
    found = _with_digit(s, depth)
    return s if found is None else found


def _with_digit(s: str, depth: int) -> str | None:
    if any(c.isdigit() for c in s):
        return s
    if depth == 0:
        return None
    for candidate in (s + "1", "2" + s, s.replace("a", "3"), s[::-1]):
        found = _with_digit(candidate, depth - 1)
        if found is not None:
            return found
    return None


def make_palindrome(s: str, depth: int) -> str:
    """Put the reversed string behind until it is a palindrome, at most `depth` times."""
    return s if s == s[::-1] or depth == 0 else make_palindrome(s + s[::-1], depth - 1)


def _reverse(s: str) -> str:
    return s[::-1]


def _repeat(s: str, n: int) -> str:
    return s * n


ATOMS: tuple[Atom, ...] = (
    Atom(permute, "reorders the characters: the i-th is number 3i, modulo the length", True),
    Atom(_repeat, "repeats the string n times", argument=whole(2, 4)),
    Atom(lambda s: "".join(c for c in s if c.lower() not in VOWELS), "deletes the vowels", True),
    Atom(lambda s: "".join(sorted(s)), "sorts the characters"),
    Atom(lambda s: " ".join(reversed(s.split())), "reverses the order of the words"),
    Atom(lambda s, p: p + s, "puts a text in front", argument=word(2, 4)),
    Atom(lambda s, p: s + p, "puts a text behind", True, word(2, 4)),
    Atom(interleave, "interleaves two strings character by character", True, binary=True),
    Atom(rotate, "rotates left by n", True, whole(1, 3)),
    Atom(lambda s: s + s[::-1], "puts the reversed string behind"),
    Atom(
        lambda s: "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(s)),
        "makes even positions lowercase and odd ones uppercase",
        True,
    ),
    Atom(shift, "shifts every letter by n in the alphabet", argument=whole(1, 5)),
    Atom(number_vowels, "turns the vowels a, e, i, o, u into 1 to 5", True),
    Atom(
        lambda s, p: p.join(s),
        "puts a separator between characters",
        argument=lambda rng: rng.choice("-_|"),
    ),
    Atom(lambda s: "".join(c * 2 for c in s), "doubles every character", True),
    Atom(lambda s: "".join(f"«{c}»" for c in s), "wraps every character in «»"),
    Atom(lambda s: "".join(c for c, _ in groupby(s)), "collapses equal neighbours", True),
    Atom(_reverse, "reverses the string"),
    Atom(_repeat, "joins n copies of the string", True, whole(2, 4)),
    Atom(rotate, "rotates left by one, n times", argument=whole(1, 3)),
    Atom(interleave, "interleaves two strings, one character of each in turn", binary=True),
    Atom(lambda s: "".join(c for c in s if c.isalpha()), "keeps letters only", True),
    Atom(lambda s: s[:-1] if len(s) % 2 else s, "drops the last character if the length is odd"),
    Atom(ensure_digit, "searches n deep for a string with a digit", argument=whole(1, 3)),
    Atom(make_palindrome, "mirrors the string up to n times until it is a palindrome", True,
         whole(1, 3)),
)  # fmt: skip
"""Behaviour, split and arguments of PRIME-RL/RL-Compositionality @97c9f0a2,
examples/data_preprocess/string_data.py; `func_3` is number 3."""
