"""Every error a user can cause, and the one way we phrase them."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

SHOWN = 10
"""Rows spelt out in an error; the others are counted."""


class DidactError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback."""


class RecipeError(DidactError):
    """The recipe is wrong: unknown name, bad parameter, or a stage that lacks its input."""


class PluginError(DidactError):
    """A plug-in could not be imported, clashes with another, or breaks its contract."""


class DataError(DidactError):
    """Data cannot be read or used: says the file, the line and what was expected."""


class RewardError(DidactError):
    """Too many rewards failed to compute; carries the first traceback."""


class RunError(DidactError):
    """A run cannot start, continue or resume: diverged, or its folder is unusable."""


class Stranded(RunError):
    """A rank fails while others wait for it in a collective: it cannot tell them, and must end."""


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """Say what was asked for, what is nearest, and what exists."""
    names = sorted(available)
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"no {kind} named '{name}'.{hint} Available: {', '.join(names) or 'none'}."


def first_few(lines: Sequence[str], what: str) -> list[str]:
    """The lines of an error that are spelt out, and how many more of what there are."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"… and {more} more {what}."] if more > 0 else [])]
