"""Prompts of files that are too long are told before any weights are loaded, all of them."""

import json

import pytest
from conftest import TINY

from didact.configs.launch import train_recipe
from didact.core.errors import DataError


def written(file, lengths):
    rows = [{"question": "x" * length, "answer": "1"} for length in lengths]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def test_every_row_that_is_too_long_is_told_at_the_start(tmp_path):
    one = written(tmp_path / "one.jsonl", [3, 40, 5])
    two = written(tmp_path / "two.jsonl", [31, *range(32, 44), 2])  # 31 and bos are 32 tokens
    task = f"task={{use: mixture, tasks: {{a: {{use: jsonl, path: '{one}'}}, "
    task += f"b: {{use: jsonl, path: '{two}'}}, c: letters}}}}"
    with pytest.raises(DataError) as caught:
        train_recipe("sft", [*TINY, "steps=1", "prompt.max_tokens=32", task], out=tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{one}:2: its prompt has 41 tokens"
    assert lines[1] == f"{two}:2: its prompt has 33 tokens" and len(lines) == 12
    assert lines[-2:] == [
        "… and 3 more rows.",
        "The limit is 32: raise 'prompt.max_tokens', or leave them out.",
    ]
