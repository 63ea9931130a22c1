"""The final answer inside a response: pure functions of a text, linear in its length."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

How = Literal["auto", "boxed", "answer", "hashes", "equals", "number", "choice", "whole"]
"""Where the final answer stands; see `final`."""

PIECES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
BARE_BOX = re.compile(r"\\boxed\s+([^\s$\\{}]+)")
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
LATEX_FRACTION = rf"(?:\d+\s?)?\\[dtc]?frac(?:\{{(?:{DIGITS})\}}\{{(?:{DIGITS})\}}|\d\d)"
NUMBER = re.compile(
    rf"(?:(?<![\w)])[-+\N{{MINUS SIGN}}]\s?)?(?<![\w.])\$?(?:{LATEX_FRACTION}|{DIGITS})"
    rf"(?:[eE][-+]?\d+(?!\w))?(?:\s?/\s?\d+)?(?:\s?\\?%)?"
)
STATED_CHOICE = re.compile(
    r"(?i:answer|choice|option)(?i:\s*(?:is|:|=))?[\s:*_(\[$\\{]*(?:text\{)?([A-Z])(?![A-Za-z'])"
)
LONE_CHOICE = re.compile(r"(?<![A-Za-z'\\])([A-Z])(?![A-Za-z'])")


def after_marker(text: str, marker: str) -> str | None:
    """What follows the last marker, to the end of its line; None without one."""
    _, found, rest = text.rpartition(marker)
    return rest.strip().partition("\n")[0].strip() if found else None


def tagged(text: str, tag: str = "answer") -> str | None:
    """The content of the last complete `<tag>…</tag>`; None without one."""
    head, closed, _ = text.rpartition(f"</{tag}>")
    _, opened, content = head.rpartition(f"<{tag}>")
    return content.strip() if closed and opened else None


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` or `\fbox{…}`, braces balanced.

    Of boxes within boxes it is the innermost last one. An escaped brace does not count. Without
    braces, `\boxed 5` is 5. None if no box is complete.
    """
    open_at: list[tuple[int, int] | None] = []
    last = (-1, "")
    for piece in PIECES.finditer(text):
        symbol = piece.group()
        if symbol == "{":
            open_at.append(None)
        elif symbol == "}" and open_at:
            box = open_at.pop()
            if box is not None and box[0] > last[0]:
                last = (box[0], text[box[1] : piece.start()])
        elif symbol.startswith(("\\boxed", "\\fbox")) and symbol.endswith("{"):
            open_at.append((piece.start(), piece.end()))
    bare = [(found.start(), found.group(1)) for found in BARE_BOX.finditer(text)]
    start, content = max([last, *bare])
    return content.strip() if start >= 0 else None


def last_number(text: str) -> str | None:
    """The last number as it is written (sign, commas, decimals, fraction, percent)."""
    found = [match.group() for match in NUMBER.finditer(text)]
    return found[-1].strip() if found else None


def choice(text: str) -> str | None:
    """The letter of a multiple choice answer, in upper case.

    A box or `<answer>` that holds a letter wins; then the last stated one ("the answer is (B)");
    then the last capital that stands alone, "I" and "A" in running text set aside.
    """
    for marked in (boxed(text), tagged(text)):
        letter = LONE_CHOICE.search(_unwrapped(marked).upper()) if marked else None
        if letter:
            return letter.group(1)
    stated = [found for found in STATED_CHOICE.finditer(text) if not _is_word(text, found)]
    if stated:
        return stated[-1].group(1)
    lone = [found for found in LONE_CHOICE.finditer(text) if not _is_word(text, found)]
    if lone:
        return lone[-1].group(1)
    short = text.strip().strip("().:*").upper()
    return short if len(short) == 1 and short.isalpha() else None


def solution(text: str) -> str:
    """What follows the last `</think>`; everything if there is none."""
    return text.rpartition("</think>")[2]


def auto(text: str) -> str | None:
    """The answer by the usual marks, after the thoughts: `<answer>`, within it a box, or `####`."""
    said = solution(text)
    answer = tagged(said)
    inside = said if answer is None else answer
    box = boxed(inside)
    if box is not None:
        return box
    return answer if answer is not None else after_marker(said, "####")


def final(text: str, how: How) -> str | None:
    r"""The final answer of a response, None if it has none.

    Args:
        text: the response.
        how: "boxed" for the last `\boxed{}`, "answer" for `<answer>`, "hashes" for what follows
            `####`, "equals" for what follows the last `=`, "number" for the last number,
            "choice" for a letter, "whole" for all of it, "auto" for `<answer>`, a box, or `####`
            after the last `</think>`.
    """
    return EXTRACTORS[how](text)


def _equals(text: str) -> str | None:
    return after_marker(text, "=")


def _hashes(text: str) -> str | None:
    return after_marker(text, "####")


def _whole(text: str) -> str | None:
    return text.strip() or None


EXTRACTORS: Mapping[How, Callable[[str], str | None]] = {
    "auto": auto,
    "boxed": boxed,
    "answer": tagged,
    "hashes": _hashes,
    "equals": _equals,
    "number": last_number,
    "choice": choice,
    "whole": _whole,
}


def _unwrapped(content: str) -> str:
    return re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", content)


def _is_word(text: str, found: re.Match[str]) -> bool:
    """Whether the letter is the article "A" or the pronoun "I" before a word."""
    follows = text[found.end(1) : found.end(1) + 2]
    running = len(follows) == 2 and follows[0] == " " and follows[1].islower()
    return found.group(1) in "AI" and running
