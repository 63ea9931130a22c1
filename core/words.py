"""A trajectory in the words of a template, for whoever judges it in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from didact.core.errors import RecipeError
from didact.core.types import Trajectory

FIELDS = ("question", "response", "answer")


def filled(template: str, trajectory: Trajectory) -> str:
    """A template with {question}, {response} and {answer} (the gold one) put in; nothing else is
    read as a field, braces in a response do no harm."""
    problem = trajectory.prompt.problem
    values = {
        "question": question_of(problem.question),
        "response": trajectory.text,
        "answer": _text(problem.answer),
    }
    return re.sub(r"\{(question|response|answer)\}", lambda found: values[found[1]], template)


def check_template(where: str, template: str, fields: Iterable[str]) -> None:
    """Refuse a template that lacks a field."""
    lacking = [f"{{{name}}}" for name in fields if f"{{{name}}}" not in template]
    if lacking:
        raise RecipeError(f"{where}: its template lacks {', '.join(lacking)}.")


def question_of(question: str | list[dict[str, str]]) -> str:
    """The text itself; of a chat, the user's last message."""
    if isinstance(question, str):
        return question
    asked = [message for message in question if message["role"] == "user"]
    return (asked or question)[-1]["content"]


def _text(answer: Any) -> str:
    if isinstance(answer, list | tuple):
        return " or ".join(map(_text, answer))
    return "" if answer is None else str(answer)
