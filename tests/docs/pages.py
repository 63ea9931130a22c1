"""The commands and files of a page of the documentation, to be run as they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: a file to be written if it has a title, commands if its language is sh."""

    language: str
    title: str
    text: str

    @property
    def lines(self) -> int:
        """Lines that are not empty."""
        return sum(bool(line.strip()) for line in self.text.splitlines())


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(*found) for found in BLOCK.findall(text)]


def code_lines(text: str) -> int:
    """Lines of Python that are neither empty, nor comment, nor docstring."""
    bare = re.sub(r'^\s*""".*?"""$', "", text, flags=re.MULTILINE | re.DOTALL)
    kept = [line.strip() for line in bare.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in kept)
