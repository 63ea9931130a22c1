"""Markdown out of docstrings and annotations."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable, Sequence

SECTIONS = ("Attributes:", "Args:", "Returns:", "Raises:")
ITEM = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def plain(text: str) -> str:
    """Text that markdown and HTML leave alone; `code` in backquotes stays code."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(p if p.startswith("`") else _escaped(p) for p in pieces)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]|~^#])", r"\\\1", html.escape(text, quote=False))


def linked(text: str) -> str:
    """`plain`, with arXiv numbers and GitHub commits as links."""
    text = plain(text)
    text = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    commit = r"([\w-]+/[\w.\\-]+)@ ?([0-9a-f]{7,40})\b"
    return re.sub(commit, _commit, text)


def _commit(found: re.Match[str]) -> str:
    repository = found[1].replace("\\", "")
    return f"[{found[1]}@{found[2][:7]}](https://github.com/{repository}/tree/{found[2]})"


def code(text: str) -> str:
    """Code in a table's cell."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing if it has no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"| {' | '.join('---' for _ in head)} |"
    return "\n".join([f"| {' | '.join(head)} |", rule, *lines, ""]) if lines else ""


def fenced(text: str, language: str = "text") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def docstring(thing: object) -> tuple[str, str, dict[str, str]]:
    """First paragraph, what follows up to the sections, and what is said of each parameter."""
    lines = (inspect.getdoc(thing) or "").split("\n")
    ends = [at for at, line in enumerate(lines) if line in SECTIONS]
    head = "\n".join(lines[: ends[0] if ends else None]).strip()
    first, _, rest = head.partition("\n\n")
    return " ".join(first.split()), rest, _items(lines[ends[0] :] if ends else [])


def _items(lines: Sequence[str]) -> dict[str, str]:
    said: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        found = ITEM.fullmatch(line)
        if found:
            names = found[1].split(", ")
            said |= dict.fromkeys(names, found[2])
        elif line.startswith("        ") and names:
            said |= {name: f"{said[name]} {line.strip()}" for name in names}
        else:
            names = []
    return said
