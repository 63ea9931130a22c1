"""Rewards for the form of a response, whatever it says: plain functions of one trajectory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from didact.core.types import Trajectory
from didact.rewards.extract import boxed


def thinks_first(trajectory: Trajectory, *, tag: str = "think", opened: bool = False) -> float:
    """1.0 if the response begins with one `<think>` block that is closed, else 0.0.

    Anything may follow it (TRL's `think_format_reward`).

    Args:
        tag: name of the block.
        opened: whether the prompt already ends in the opening tag.
    """
    text = f"<{tag}>{trajectory.text}" if opened else trajectory.text
    once = text.count(f"<{tag}>") == 1
    return float(once and text.startswith(f"<{tag}>") and f"</{tag}>" in text)


def tagged_format(
    trajectory: Trajectory, *, tags: Sequence[str] = ("think", "answer"), opened: bool = False
) -> float:
    """1.0 if the response is exactly these blocks in this order, each once, else 0.0.

    White space between and around them is allowed, other text is not. Blocks must not be blank.

    Args:
        tags: names of the blocks.
        opened: whether the prompt already ends in the first opening tag.
    """
    text = f"<{tags[0]}>{trajectory.text}" if opened else trajectory.text
    at = 0
    for tag in tags:
        start, end = f"<{tag}>", f"</{tag}>"
        if text.count(start) != 1 or text.count(end) != 1:
            return 0.0
        opening, closing = text.index(start), text.index(end)
        content = text[opening + len(start) : closing]
        if opening < at or text[at:opening].strip() or not content.strip():
            return 0.0
        at = closing + len(end)
    return float(not text[at:].strip())


def tag_share(
    trajectory: Trajectory, *, tags: Sequence[str] = ("think", "answer"), opened: bool = False
) -> float:
    """Share of the opening and closing tags that occur exactly once, from 0.0 to 1.0.

    Args:
        tags: names of the blocks.
        opened: whether the prompt already ends in the first opening tag.
    """
    text = f"<{tags[0]}>{trajectory.text}" if opened else trajectory.text
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    return sum(text.count(mark) == 1 for mark in marks) / len(marks)


def block_present(trajectory: Trajectory, *, tag: str = "answer") -> float:
    """1.0 if there is a complete `<tag>…</tag>`, else 0.0.

    Args:
        tag: name of the block.
    """
    _, found, rest = trajectory.text.partition(f"<{tag}>")
    return float(bool(found) and f"</{tag}>" in rest)


def boxed_present(trajectory: Trajectory) -> float:
    r"""1.0 if there is a complete `\boxed{…}` that is not blank, else 0.0."""
    return float(bool(boxed(trajectory.text)))


def full_match(trajectory: Trajectory, *, pattern: str, strip: bool = True) -> float:
    """1.0 if the whole response matches a regular expression (`.` matches line ends), else 0.0.

    Args:
        pattern: Python syntax. It runs on what a model wrote: avoid nested repetitions.
        strip: whether white space around the response is ignored.
    """
    text = trajectory.text.strip() if strip else trajectory.text
    return float(re.fullmatch(pattern, text, re.DOTALL) is not None)
