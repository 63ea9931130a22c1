"""CSV, Parquet, saved folders and the hub; and real files read by settings only."""

import json
import re
from pathlib import Path

import pytest

from didact.core.errors import DataError
from didact.core.where import Where
from didact.feedback.tasks.columns import Columns
from didact.feedback.tasks.files import comma_separated, hub, json_lines, parquet

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "benchmarks"
ROWS = [
    {"question": "1+1?", "answer": "2", "level": 1, "steps": "It is 2.", "uid": "a"},
    {"question": "2+2?", "answer": "4", "level": 2, "steps": "It is 4.", "uid": "b"},
    {"question": "3+3?", "answer": "6", "level": 3, "steps": "It is 6.", "uid": "c"},
]
MAPPED = Columns(id="uid", demonstrations="steps", metadata=["level"])


def written(folder: Path, *lines: object, name: str = "data.jsonl") -> str:
    """A file of these lines: objects as JSON, text and bytes as they are."""
    texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines]
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    (folder / name).write_bytes(b"\n".join(raw) + b"\n")
    return str(folder / name)


def message(call, *arguments, **settings) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **settings)
    return str(caught.value)


def test_csv_keeps_values_as_they_are_written(tmp_path):
    path = written(tmp_path, "question,answer", '"a, b?",007', '"two\nlines",1.50', name="d.csv")
    assert [(p.question, p.answer) for p in comma_separated(path)] == [
        ("a, b?", "007"),
        ("two\nlines", "1.50"),
    ]


def test_csv_errors_name_the_line(tmp_path):
    path = written(tmp_path, "question,answer", "q,a", "q", name="d.csv")
    assert f"{path}:3: 1 fields; expected the 2" in message(comma_separated, path)
    path = written(tmp_path, "question,answer", b"caf\xe9,a", name="d.csv")
    assert f"{path}:2: byte 4 of the line (0xe9)" in message(comma_separated, path)
    path = written(tmp_path, "question,answer,answer", "q,a,b", name="d.csv")
    assert f"{path}:1: column 'answer' is named twice" in message(comma_separated, path)
    path = written(tmp_path, "question,answer", '"open,a', name="d.csv")
    assert f"{path}:2: is no CSV: unexpected end of data" in message(comma_separated, path)


def test_parquet_gives_the_same_problems_as_json_lines(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    path = str(tmp_path / "data.parquet")
    files.write_table(arrow.Table.from_pylist(ROWS), path)
    assert list(parquet(path, MAPPED)) == list(json_lines(written(tmp_path, *ROWS), MAPPED))
    files.write_table(arrow.Table.from_pylist([*ROWS, {**ROWS[0], "answer": None}]), path)
    assert f"{path}: row 3: answer 'answer' is empty" in message(parquet, path)
    assert "is no readable Parquet file" in message(
        parquet, written(tmp_path, "x", name="x.parquet")
    )


def test_a_folder_that_datasets_saved_is_read_by_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = str(tmp_path / "one")
    datasets.Dataset.from_list(ROWS).save_to_disk(one)
    assert [p.answer for p in hub(one)] == ["2", "4", "6"]
    assert "no split 'test': it holds one without a name" in message(hub, one, split="test")
    assert "has neither 'subset' nor 'revision'" in message(hub, one, revision="main")
    tests = datasets.Dataset.from_list(ROWS, split=datasets.Split.TEST)
    tests.save_to_disk(named := str(tmp_path / "named"))
    assert len(hub(named, split="test")) == 3
    assert "no split 'train': it holds split 'test'" in message(hub, named)
    both = str(tmp_path / "both")
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(both)
    assert [p.id for p in hub(both, split="test", columns=MAPPED)] == ["a", "b", "c"]
    assert "no split named 'tset'. Did you mean 'test'" in message(hub, both, split="tset")
    (tmp_path / "other").mkdir()
    assert "is no folder that `datasets` saved" in message(hub, str(tmp_path / "other"))


def test_a_data_set_that_cannot_be_loaded_says_what_was_tried(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refuse(*arguments, **settings):
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    text = message(hub, "someone/sums", split="train", subset="main")
    assert text == (
        "someone/sums: split 'train' of main could not be loaded from the hub, and there is no "
        "such folder here: ConnectionError: no network"
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="benchmark files are not here")
def test_gsm8k_is_read_by_settings_only():
    path = str(DATA / "gsm8k_train.jsonl")
    columns = Columns(id="id", demonstrations="solution", metadata=["source"])
    ready = json_lines(path, columns, template="{question}\nPut the answer in \\boxed{{}}.")
    assert len(ready) == 7473 and ready[0].question.endswith("\nPut the answer in \\boxed{}.")
    raw = json_lines(path, Columns(id="id", answer="solution", answer_pattern="#### (.+)"))
    assert [p.answer for p in ready] == [p.answer.replace(",", "") for p in raw]


@pytest.mark.skipif(not DATA.is_dir(), reason="benchmark files are not here")
def test_math_is_read_by_settings_only():
    path = str(DATA / "math_test.jsonl")
    columns = Columns(id="id", demonstrations="solution", metadata=["level", "subject"])
    hard = json_lines(path, columns, where=Where({"prompt.level": "Level 5"}))
    assert len(hard) + hard.filtered == 5000 and len(hard) == 1324
    ready = json_lines(path, columns)
    raw = json_lines(path, Columns(id="id", answer="solution", answer_boxed=True))
    assert [p.answer.strip() for p in ready] == [p.answer for p in raw]


@pytest.mark.skipif(not DATA.is_dir(), reason="benchmark files are not here")
def test_the_empty_answer_of_the_countdown_demonstrations_is_found():
    path = DATA.parent / "demos" / "countdown_train.jsonl"
    columns = Columns(id="id", demonstrations="demonstration", metadata=["nums", "target"])
    assert re.match(
        rf"{path}:429: answer 'answer' is empty", message(json_lines, str(path), columns)
    )
    assert len(json_lines(str(path), columns, skip_bad=True)) == 999
