"""Problems from JSON Lines, CSV and Parquet files, from Arrow folders and from the hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from didact.core.errors import DataError, unknown
from didact.core.ranges import Count
from didact.core.where import EVERYTHING, Where
from didact.feedback.tasks.columns import Columns
from didact.feedback.tasks.rows import Located, Table, table

DEFAULT = Columns()


def json_lines(
    path: str,
    columns: Columns = DEFAULT,
    template: str = "{question}",
    limit: Count | None = None,
    where: Where = EVERYTHING,
    skip_bad: bool = False,
) -> Table:
    """Problems of a file with one JSON object per line, in UTF-8.

    Args:
        path: the file.
        columns: which column holds what.
        template: what the model is asked; `{question}` and any other column by name, braces that
            stay as they are twice: `{question}\\nPut the answer in \\boxed{{}}.`
        limit: most problems, the first ones.
        where: which rows, by metadata: `{prompt.level: [3, 4]}`.
        skip_bad: leave out rows that cannot be used and list them in `skipped`, instead of
            stopping.

    Raises:
        DataError: with file, line, and what was expected.
    """
    rows = _json_rows(_file(path))
    return table(path, rows, columns, template, limit, where, skip_bad)


def comma_separated(
    path: str,
    columns: Columns = DEFAULT,
    template: str = "{question}",
    limit: Count | None = None,
    where: Where = EVERYTHING,
    skip_bad: bool = False,
) -> Table:
    """Problems of a CSV file in UTF-8 whose first line names the columns; every value is text.

    Args: as for `json_lines`.

    Raises:
        DataError: with file, line, and what was expected.
    """
    rows = _csv_rows(_file(path))
    return table(path, rows, columns, template, limit, where, skip_bad)


def parquet(
    path: str,
    columns: Columns = DEFAULT,
    template: str = "{question}",
    limit: Count | None = None,
    where: Where = EVERYTHING,
    skip_bad: bool = False,
) -> Table:
    """Problems of a Parquet file. Rows are counted from 0.

    Args: as for `json_lines`.

    Raises:
        DataError: with file, row, and what was expected.
    """
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow import parquet as arrow

    file = _file(path)
    try:
        rows = arrow.read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: is no readable Parquet file: {_first_line(error)}") from None
    return table(path, _numbered(path, rows), columns, template, limit, where, skip_bad)


def hub(
    name: str,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    columns: Columns = DEFAULT,
    template: str = "{question}",
    limit: Count | None = None,
    where: Where = EVERYTHING,
    skip_bad: bool = False,
) -> Table:
    """Problems of a data set on the Hugging Face hub, or of a folder that `datasets` saved.

    Args:
        name: hub id, `openai/gsm8k`, or a folder written by `save_to_disk`.
        split: of the data set.
        subset: its configuration, `main` say.
        revision: commit or tag on the hub, to pin the data.
        columns, template, limit, where, skip_bad: as for `json_lines`.

    Raises:
        DataError: with the data set, row, and what was expected.
    """
    folder = Path(name).is_dir()
    if folder and (subset or revision):
        raise DataError(f"{name}: is a folder, which has neither 'subset' nor 'revision'.")
    rows = _folder_rows(name, split) if folder else _hub_rows(name, split, subset, revision)
    place = f"{name}[{split}]"
    return table(name, _numbered(place, rows), columns, template, limit, where, skip_bad)


def _file(path: str) -> Path:
    """The file, if it is one and can be read."""
    file = Path(path).expanduser()
    if not file.is_file():
        beside = file.resolve().parent
        if not beside.is_dir():
            raise DataError(f"{path}: there is no folder '{beside}'.")
        what = "is a folder, not a file." if file.is_dir() else ""
        here = [item.name for item in beside.iterdir() if item.is_file()][:20]
        raise DataError(f"{path}: {what or unknown('file', file.name, here)} (in '{beside}')")
    return file


def _json_rows(file: Path) -> Iterator[Located]:
    for number, text in _text_lines(file):
        place = f"{file}:{number}"
        if isinstance(text, UnicodeDecodeError):
            yield Located(place, fault=_encoding(text))
        elif text.strip():
            yield _json_row(place, text)


def _json_row(place: str, text: str) -> Located:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        fault = f"is no JSON at column {error.colno}: {error.msg}; expected one object per line"
        return Located(place, fault=fault)
    except (ValueError, RecursionError) as error:
        said = "a number is too long" if isinstance(error, ValueError) else "nested too deeply"
        return Located(place, fault=f"is no JSON that can be read: {said}")
    if not isinstance(row, dict):
        return Located(place, fault=f"expected an object, found {type(row).__name__}")
    return Located(place, row)


def _text_lines(file: Path) -> Iterator[tuple[int, str | UnicodeDecodeError]]:
    """Lines from 1, decoded; a line that is not UTF-8 comes as the error."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{file}:1: is UTF-16; expected UTF-8. Convert the file.")
                yield number, _decoded(line, first=number == 1)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from None


def _decoded(line: bytes, first: bool) -> str | UnicodeDecodeError:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        return error


def _encoding(error: UnicodeDecodeError) -> str:
    bad = error.object[error.start]
    return f"byte {error.start + 1} of the line (0x{bad:02x}) is not UTF-8; convert the file"


def _csv_rows(file: Path) -> Iterator[Located]:
    lines: list[str] = []
    for number, text in _text_lines(file):
        if isinstance(text, UnicodeDecodeError):
            raise DataError(f"{file}:{number}: {_encoding(text)}.")
        lines.append(text)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise DataError(f"{file}:1: column '{twice[0]}' is named twice.")
        for values in reader:
            place = f"{file}:{reader.line_num}"
            if values and len(values) != len(header):
                said = f"{len(values)} fields; expected the {len(header)} of the first line"
                yield Located(place, fault=said)
            elif values:
                yield Located(place, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: is no CSV: {error}.") from None


def _folder_rows(name: str, split: str) -> list[dict[str, Any]]:
    import datasets

    try:
        data = datasets.load_from_disk(name)
    except Exception as error:
        raise DataError(
            f"{name}: is no folder that `datasets` saved with save_to_disk: {_first_line(error)}"
        ) from None
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{name}: {unknown('split', split, map(str, data))}")
        data = data[split]
    elif split != str(data.split or "train"):
        held = f"split '{data.split}'" if data.split else "one without a name; leave 'split' out"
        raise DataError(f"{name}: no split '{split}': it holds {held}.")
    return list(data)


def _hub_rows(
    name: str, split: str, subset: str | None, revision: str | None
) -> list[dict[str, Any]]:
    import datasets

    try:
        return list(datasets.load_dataset(name, subset, split=split, revision=revision))
    except Exception as error:
        raise DataError(
            f"{name}: split '{split}'{f' of {subset}' if subset else ''} could not be loaded "
            f"from the hub, and there is no such folder here: {_first_line(error)}"
        ) from None


def _numbered(place: str, rows: list[dict[str, Any]]) -> Iterator[Located]:
    return (Located(f"{place}: row {number}", row) for number, row in enumerate(rows))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
