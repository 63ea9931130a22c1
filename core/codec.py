"""Trajectories as plain state and back: dicts, lists, text, numbers and tensors, no objects.

What comes out of `encode` survives `torch.save` and `torch.load(weights_only=True)`, and `decode`
gives equal records. A prompt that several trajectories share is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from didact.core.errors import RunError
from didact.core.protocols import State
from didact.core.types import Feedback, Problem, Prompt, Trajectory

FORMAT = 1


def encode(trajectories: Iterable[Trajectory]) -> State:
    """The trajectories, in order, as plain state.

    Raises:
        RunError: a problem's answer or metadata is not plain data.
    """
    prompts: list[Prompt] = []
    places: dict[str, list[int]] = {}
    rows = []
    for trajectory in trajectories:
        at = _place(trajectory.prompt, prompts, places)
        rows.append({"prompt": at, **_row(trajectory)})
    return {"format": FORMAT, "prompts": [prompt_state(p) for p in prompts], "rows": rows}


def decode(state: Mapping[str, Any]) -> list[Trajectory]:
    """What `encode` was given.

    Raises:
        RunError: the state was written by another format of this file.
    """
    if state.get("format") != FORMAT:
        raise RunError(
            f"stored trajectories have format {state.get('format')!r}, this version reads {FORMAT}."
        )
    prompts = [prompt_from(written) for written in state["prompts"]]
    return [_trajectory(row, prompts[row["prompt"]]) for row in state["rows"]]


def prompt_state(prompt: Prompt) -> State:
    """A prompt with its problem, as plain state."""
    return {
        "id": prompt.id,
        "tokens": _kept(prompt.tokens),
        "problem": problem_state(prompt.problem),
    }


def prompt_from(state: Mapping[str, Any]) -> Prompt:
    """The prompt that `prompt_state` was given."""
    return Prompt(state["id"], state["tokens"], problem_from(state["problem"]))


def problem_state(problem: Problem) -> State:
    """A problem as plain state."""
    return {
        "id": problem.id,
        "question": _plain(problem.question, problem.id, "question"),
        "answer": _plain(problem.answer, problem.id, "answer"),
        "demonstrations": list(problem.demonstrations),
        "metadata": _plain(dict(problem.metadata), problem.id, "metadata"),
    }


def problem_from(state: Mapping[str, Any]) -> Problem:
    """The problem that `problem_state` was given."""
    return Problem(
        id=state["id"],
        question=state["question"],
        answer=state["answer"],
        demonstrations=tuple(state["demonstrations"]),
        metadata=state["metadata"],
    )


def _row(trajectory: Trajectory) -> State:
    return {
        "tokens": _kept(trajectory.tokens),
        "trainable": _kept(trajectory.trainable),
        "origin": trajectory.origin,
        "text": trajectory.text,
        "truncated": trajectory.truncated,
        "version": trajectory.version,
        "signals": {name: float(value) for name, value in trajectory.signals.items()},
        "columns": {name: _kept(values) for name, values in trajectory.columns.items()},
        "feedback": [[said.text, said.source] for said in trajectory.feedback],
    }


def _trajectory(row: Mapping[str, Any], prompt: Prompt) -> Trajectory:
    return Trajectory(
        prompt=prompt,
        tokens=row["tokens"],
        trainable=row["trainable"],
        origin=row["origin"],
        text=row["text"],
        truncated=row["truncated"],
        version=row["version"],
        signals=row["signals"],
        columns=row["columns"],
        feedback=tuple(Feedback(text, source) for text, source in row["feedback"]),
    )


def _place(prompt: Prompt, prompts: list[Prompt], places: dict[str, list[int]]) -> int:
    """Where the prompt stands among those written so far; written at the end if it is new."""
    known = places.setdefault(prompt.id, [])
    for at in known:
        if prompts[at] is prompt or _same(prompts[at], prompt):
            return at
    prompts.append(prompt)
    known.append(len(prompts) - 1)
    return known[-1]


def _same(one: Prompt, other: Prompt) -> bool:
    """Equal in all parts; the same id alone is not enough (a hint may have been appended)."""
    return torch.equal(one.tokens, other.tokens) and one.problem == other.problem


def _kept(tensor: Tensor) -> Tensor:
    """The tensor alone: saving a slice would save the whole storage that it looks into."""
    own = tensor.detach().cpu()
    if own.untyped_storage().nbytes() != own.numel() * own.element_size():
        return own.clone(memory_format=torch.contiguous_format)
    return own


def _plain(value: Any, problem: str, where: str) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item, problem, where) for item in value)
    if isinstance(value, Mapping):
        return {
            _plain(key, problem, where): _plain(item, problem, where) for key, item in value.items()
        }
    raise RunError(
        f"problem '{problem}': its {where} holds a {type(value).__name__}, which cannot be stored; "
        f"problems consist of text, numbers, lists and mappings only."
    )
