"""From rows of a file to problems: the column mapping, and what is said when a row does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import torch

from didact.core.errors import SHOWN, DataError, first_few, unknown
from didact.core.types import Group, Problem, Prompt
from didact.core.where import Where
from didact.feedback.tasks.columns import Columns

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Located:
    """A row, or what is wrong with it, and where it stands (`train.jsonl:17`)."""

    place: str
    row: Row = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Table:
    """Problems that were read from somewhere.

    Attributes:
        source: file or hub id.
        problems: in the order of the rows.
        skipped: one line, with place and reason, for each row left out on request.
        filtered: rows that `where` did not choose.
        places: where each problem stands, by its id.
    """

    source: str
    problems: Sequence[Problem] = field(repr=False)
    skipped: list[str] = field(default_factory=list)
    filtered: int = 0
    places: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __getitem__(self, index: int) -> Problem:
        return self.problems[index]

    def __len__(self) -> int:
        return len(self.problems)


class BadRow(Exception):
    """A row that does not fit the mapping; the text says why."""


def table(
    source: str,
    rows: Iterable[Located],
    columns: Columns,
    template: str,
    limit: int | None,
    where: Where,
    skip_bad: bool,
) -> Table:
    """Make problems of rows.

    Raises:
        DataError: a mapped column does not exist, rows do not fit and `skip_bad` is off, or
            nothing is left.
    """
    rows = list(rows)
    _check_columns(source, rows, columns, template)
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    faults: list[str] = []
    filtered = 0
    for number, located in enumerate(rows):
        if limit is not None and len(problems) == limit:
            break
        try:
            problem = _problem(located, columns, template, f"{_stem(source)}/{number}")
            if problem.id in problems:
                raise BadRow(f"id '{problem.id}' was already given in {places[problem.id]}")
        except BadRow as fault:
            faults.append(f"{located.place}: {fault}")
            continue
        if not _chosen(problem, where):
            filtered += 1
            continue
        problems[problem.id] = problem
        places[problem.id] = located.place
    if faults and not skip_bad:
        raise DataError(_told(faults))
    if not problems:
        raise DataError(
            f"{source}: no problem is left of {len(rows)} rows: {len(faults)} are bad, "
            f"{filtered} are not chosen by 'where'." + "".join(f"\n  {f}" for f in faults[:SHOWN])
        )
    return Table(source, tuple(problems.values()), faults, filtered, places)


def _told(faults: Sequence[str]) -> str:
    few = first_few(faults, "bad rows")
    return "\n".join([*few, "Correct the rows, or leave them out with 'skip_bad: true'."])


def _stem(source: str) -> str:
    return re.sub(r"\.(jsonl?|parquet|csv)$", "", source.rstrip("/").rpartition("/")[2])


def _check_columns(source: str, rows: Sequence[Located], columns: Columns, template: str) -> None:
    """Every mapped column is somewhere in the data; otherwise the mapping is wrong, not a row."""
    existing = {name for located in rows for name in located.row}
    if not existing:
        return
    for name in columns.used:
        if name not in existing and name.partition(".")[0] not in existing:
            raise DataError(f"{source}: {unknown('column', name, existing)}")
    try:
        fields = _fields(template)
    except ValueError as error:
        raise DataError(
            f"template {template!r}: {error}; write braces that stay as they are twice."
        ) from None
    if "question" not in fields:
        raise DataError(f"template {template!r} must name {{question}}.")
    for name in fields - existing - {"question"}:
        raise DataError(
            f"template {template!r}: {unknown('column', name, existing | {'question'})} "
            "Write braces that stay as they are twice."
        )


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _problem(located: Located, columns: Columns, template: str, number: str) -> Problem:
    if located.fault:
        raise BadRow(located.fault)
    row = located.row
    return Problem(
        id=number if columns.id is None else str(_id(row, columns.id)),
        question=_question(row, columns.question, template),
        answer=_answer(row, columns),
        demonstrations=tuple(
            text for name in columns.demonstrated for text in _demonstrations(row, name)
        ),
        metadata={name: _plain(row, name) for name in columns.metadata},
    )


def _read(row: Row, name: str) -> Any:
    """A column by name, or by a dotted path into objects."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadRow(unknown("column", name, row))
        value = value[part]
    return value


def _id(row: Row, name: str) -> Any:
    value = _read(row, name)
    if value is None or value == "" or not isinstance(value, str | int):
        raise BadRow(f"id '{name}' must be text or a whole number, not {_shown(value)}")
    return value


def _question(row: Row, name: str, template: str) -> str | list[dict[str, str]]:
    value = _read(row, name)
    if isinstance(value, list):
        if template != "{question}":
            raise BadRow(f"question '{name}' is a chat, which a template cannot frame")
        if not value:
            raise BadRow(f"question '{name}' is a chat without messages")
        for at, message in enumerate(value):
            if not isinstance(message, Mapping) or not {"role", "content"} <= {*message}:
                raise BadRow(f"message {at} of chat '{name}' needs 'role' and 'content'")
        return [{"role": _text(m, "role"), "content": _text(m, "content")} for m in value]
    return _framed(template, row, _text(row, name))


def _framed(template: str, row: Row, question: str) -> str:
    others = {name: _read(row, name) for name in _fields(template) - {"question"}}
    for name, value in others.items():
        if value is None:
            raise BadRow(f"'{name}', which the template names, is empty")
    try:
        return template.format_map({**others, "question": question})
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise BadRow(f"the template {template!r} cannot be filled: {error}") from None


def _answer(row: Row, columns: Columns) -> Any:
    if columns.answer is None:
        return None
    value = _plain(row, columns.answer)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"answer '{columns.answer}' is empty; a verifier needs one")
    if columns.answer_pattern is None and not columns.answer_boxed:
        return _sound(value, columns.answer) if isinstance(value, str) else value
    text = _text(row, columns.answer)
    if columns.answer_boxed:
        return last_boxed(text, columns.answer)
    found = [match[1] or "" for match in re.finditer(columns.answer_pattern or "", text)]
    if not found or not found[-1].strip():
        raise BadRow(
            f"answer '{columns.answer}' has nothing that matches {columns.answer_pattern!r}"
        )
    return found[-1].strip()


def last_boxed(text: str, name: str) -> str:
    """What the last `\\boxed{}` or `\\fbox{}` of a text holds, braces matched; also `\\boxed 2`.

    Raises:
        BadRow: there is none, it is not closed, or it is empty.
    """
    boxes = list(re.finditer(r"\\(?:boxed|fbox)(?:\s*\{|\s+([^\s${}]+))", text))
    if not boxes:
        raise BadRow(f"answer '{name}' has no \\boxed{{}}")
    if boxes[-1].group(1):
        return boxes[-1].group(1)
    depth, start = 1, boxes[-1].end()
    at = start
    while depth and at < len(text):
        escaped = text[at - 1] == "\\"
        depth += 0 if escaped else {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    inside = text[start : at - 1].strip()
    if depth or not inside:
        raise BadRow(f"answer '{name}' has a \\boxed{{}} that is {'open' if depth else 'empty'}")
    return inside


def _demonstrations(row: Row, name: str) -> list[str]:
    value = _read(row, name)
    if isinstance(value, list):
        for at, item in enumerate(value):
            if not isinstance(item, str) or not item.strip():
                raise BadRow(f"demonstration {at} of '{name}' must be text, not {_shown(item)}")
        return [_sound(item, name, "demonstration ") for item in value]
    return [_text(row, name, "demonstration ")]


def _text(row: Row, name: str, what: str = "") -> str:
    value = _read(row, name)
    if not isinstance(value, str):
        raise BadRow(f"{what}'{name}' must be text, not {_shown(value)}")
    if not value.strip():
        raise BadRow(f"{what}'{name}' is empty")
    return _sound(value, name, what)


def _sound(text: str, name: str, what: str = "") -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadRow(f"{what}'{name}' holds half of a surrogate pair, which is no text")
    return text


def _plain(row: Row, name: str) -> Any:
    value = _read(row, name)
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise BadRow(f"'{name}' must be plain data, not {_shown(value)}") from None


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:40] + '…'}"


def _chosen(problem: Problem, where: Where) -> bool:
    prompt = Prompt(problem.id, torch.empty(0, dtype=torch.int64), problem)
    return where(Group(prompt))
