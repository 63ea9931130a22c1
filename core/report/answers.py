"""Texts for the report's browser: all methods' answers to the same question, side by side."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from didact.core.report.alike import keyed
from didact.core.report.evidence import Evidence
from didact.core.report.read import Row, RunRecord

LONGEST = 1500  # characters of one text
MOST_BYTES = 1_500_000  # of all answers to evaluation questions
MOST_TRAINING = 500_000  # of all training samples
MOST_QUESTIONS = 120
MOST_ANSWERS = 4  # of a method to a question, the greedy one included
MOST_MEMBERS = 8  # of a group
MOST_STEPS = 24
READ_AT_MOST = 64_000_000  # characters of one run's trajectories
HEAD = re.compile(r'^\{"step": (\d+), "prompt": "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Browser:
    """What the sample browser shows.

    Attributes:
        items: questions with each method's answers, as plain data for the page's script.
        shown, total: questions.
        note: what was left out, in words.
    """

    items: tuple[Mapping[str, Any], ...]
    shown: int
    total: int
    note: str


def final_answers(evidence: Evidence, runs: Sequence[RunRecord]) -> Browser:
    """Answers of the final evaluation; of each method, its first finished seed."""
    first: dict[str, RunRecord] = {}
    for run in runs:
        if run.answers is not None:
            first.setdefault(run.label, run)
    tables = {label: keyed(run) for label, run in first.items()}
    items: list[Mapping[str, Any]] = []
    size = 0
    for at in _chosen(evidence):
        item = _question(evidence, at, tables, first)
        size += len(json.dumps(item, ensure_ascii=False).encode())
        if items and size > MOST_BYTES:
            break
        items.append(item)
    total = len(evidence.questions)
    note = (
        f"{len(items):,} of {total:,} questions, taken evenly from the whole set; of each method "
        f"one seed and at most {MOST_ANSWERS} answers to a question; texts are cut at "
        f"{LONGEST:,} characters."
    )
    return Browser(tuple(items), len(items), total, note)


def _chosen(evidence: Evidence) -> list[int]:
    """Columns of questions to show: spread evenly over bins or levels, and in each evenly."""
    count = len(evidence.questions)
    key = "bin" if evidence.bins else next(iter(evidence.by), None)
    strata = list(evidence.parts(key).values()) if key else [np.arange(count)]
    most = min(MOST_QUESTIONS, count)
    spread = [
        [
            int(columns[i])
            for i in np.linspace(0, len(columns) - 1, min(most, len(columns)), dtype=int)
        ]
        for columns in strata
    ]
    rounds = [at for group in zip_longest(*spread) for at in group if at is not None]
    taken: list[int] = list(islice(dict.fromkeys(rounds), most))
    # Interleaved over strata first, so that a size limit cuts all strata alike.
    return taken


def _question(
    evidence: Evidence,
    at: int,
    tables: Mapping[str, Mapping[str, Row]],
    runs: Mapping[str, RunRecord],
) -> dict[str, Any]:
    key, row = evidence.questions[at], evidence.rows[at]
    return {
        "id": key,
        "question": as_text(row["question"]),
        "answer": as_text(row["answer"]),
        "bin": evidence.bins[at] if evidence.bins else None,
        "parts": {name: str(row.get("metadata", {}).get(name)) for name in evidence.by},
        "methods": [
            {"label": label, "seed": runs[label].seed, "answers": _answers(table[key])}
            for label, table in tables.items()
        ],
    }


def _answers(row: Row) -> list[dict[str, Any]]:
    """The first answers of a row, each with its success and reward."""
    greedy = row["greedy"] is not None
    success = ([row["greedy"]] if greedy else []) + list(row["successes"])
    rewards = row.get("rewards") or [None] * len(row["answers"])
    lengths = row.get("lengths") or [None] * len(row["answers"])
    each = zip(row["answers"], success, rewards, lengths, strict=False)
    return [
        {
            "kind": "greedy" if greedy and at == 0 else "sampled",
            "text": cut(text),
            "success": right,
            "reward": reward,
            "tokens": tokens,
        }
        for at, (text, right, reward, tokens) in enumerate(islice(each, MOST_ANSWERS))
    ]


def training_samples(runs: Sequence[RunRecord]) -> Browser:
    """Groups from training with rewards and critiques: of each method, its first seed with any."""
    groups: dict[tuple[int, str], dict[str, list[Row]]] = defaultdict(dict)
    seeds: dict[str, str] = {}
    clipped = False
    for run in runs:
        file = run.path / "trajectories.jsonl"
        if run.label in seeds or not file.exists():
            continue
        seeds[run.label] = run.seed
        found, cut_off = _groups(file)
        clipped = clipped or cut_off
        for key, rows in found.items():
            groups[key][run.label] = rows
    # Groups that most methods sampled come first; then evenly over the steps.
    most = max(map(len, groups.values()), default=0)
    common = sorted(key for key, by in groups.items() if len(by) == most)
    at = np.linspace(0, len(common) - 1, min(MOST_STEPS, len(common)), dtype=int)
    items: list[Mapping[str, Any]] = []
    size = 0
    for key in (common[i] for i in dict.fromkeys(at.tolist())):
        item = _group(key, groups[key], seeds)
        size += len(json.dumps(item, ensure_ascii=False).encode())
        if items and size > MOST_TRAINING:
            break
        items.append(item)
    note = (
        f"{len(items)} of {len(groups):,} recorded groups, taken evenly over the steps; at most "
        f"{MOST_MEMBERS} responses each."
    )
    if clipped:
        note += f" Only the first {READ_AT_MOST // 1_000_000} MB of long recordings were read."
    return Browser(tuple(items), len(items), len(groups), note)


def _groups(file: Path) -> tuple[dict[tuple[int, str], list[Row]], bool]:
    """The first recorded group of every step, by step and prompt; and whether reading stopped."""
    lines: dict[int, tuple[str, list[str]]] = {}
    read = 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            read += len(line)
            if read > READ_AT_MOST:
                break
            head = HEAD.match(line)  # far faster than parsing every line
            if head is None:
                continue
            name = json.loads(f'"{head[2]}"')
            prompt, kept = lines.setdefault(int(head[1]), (name, []))
            if prompt == name and len(kept) < MOST_MEMBERS:
                kept.append(line)
    out: dict[tuple[int, str], list[Row]] = {}
    for step, (prompt, kept) in lines.items():
        rows = [row for line in kept if (row := _parsed(line)) is not None]
        if rows:
            out[step, prompt] = rows
    return out, read > READ_AT_MOST


def _parsed(line: str) -> Row | None:
    """A recorded response; None for a line that a crash cut off."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, Mapping) else None


def _group(
    key: tuple[int, str], by_label: Mapping[str, Sequence[Row]], seeds: Mapping[str, str]
) -> dict[str, Any]:
    question = next(iter(by_label.values()))[0].get("question", "")
    return {
        "id": f"step {key[0]}: {key[1]}",
        "question": as_text(question),
        "answer": None,
        "bin": None,
        "parts": {},
        "methods": [
            {"label": label, "seed": seeds[label], "answers": [_response(row) for row in rows]}
            for label, rows in by_label.items()
        ],
    }


def _response(row: Row) -> dict[str, Any]:
    signals = row.get("signals") or {}
    return {
        "kind": row.get("origin", "?"),
        "text": cut(str(row.get("response", ""))),
        "success": signals.get("success"),
        "reward": signals.get("reward"),
        "tokens": row.get("tokens"),
        "truncated": bool(row.get("truncated")),
        "critique": [
            f"{said.get('source')}: {cut(said.get('text', ''))}" for said in row["feedback"]
        ]
        if row.get("feedback")
        else [],
    }


def as_text(value: Any) -> str:
    """A question or answer for reading: text as it is, a chat line by line, else JSON."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list) and all(isinstance(m, Mapping) and "content" in m for m in value):
        return cut("\n\n".join(f"{m.get('role', '?')}: {m['content']}" for m in value))
    return cut(json.dumps(value, ensure_ascii=False))


def cut(text: str) -> str:
    """The text, or its beginning and how much was left out."""
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} … [{left:,} more characters]"
