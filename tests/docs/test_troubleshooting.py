"""The messages on the page about errors are those that the commands on it print."""

from __future__ import annotations

import re
import shlex

import pytest
from docs.pages import DOCS, blocks

from didact.configs.cli import main

PAGE = "troubleshooting.md"
NAMED = re.compile(r" named|no setting of")
HEAD = re.compile(r"^### (.*)$", re.MULTILINE)
FOLDERS = ("core", "configs", "plugins", "feedback", "rewards", "algorithms")


def examples():
    for block in blocks(PAGE):
        if block.language == "console":
            command, *said = block.text.strip().splitlines()
            yield command.removeprefix("$ didact "), "\n".join(said)


@pytest.mark.parametrize(("command", "said"), examples())
def test_a_command_prints_its_message(command, said, tmp_path, monkeypatch, capsys):
    for block in blocks(PAGE):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def words():
    """Each piece of a message in a heading, between its omissions; "no X named" has examples."""
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    for heading in HEAD.findall(text):
        for message in re.findall(r"`([^`]+)`", heading):
            for piece in message.split("…"):
                if len(piece.strip(" .,'?():")) > 6 and not NAMED.search(piece):
                    yield piece.strip(" .,?():")


@pytest.mark.parametrize("piece", sorted(set(words())))
def test_a_heading_quotes_a_message_of_the_code(piece):
    sources = [p for folder in FOLDERS for p in (DOCS.parent / folder).rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    pattern = re.sub(r"(?<=')\w+(?=')", "<>", piece).replace("<>", "@@")
    wanted = re.escape(pattern).replace("@@", r"(?:\w+|\{[^}]+\})")
    assert re.search(wanted, joined), f"no message says '{piece}'"
