"""How the problems of a recipe become tokens, and which of its files' rows cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from didact.configs.schema import PromptSpec
from didact.core.errors import DataError, first_few
from didact.core.protocols import TaskSource
from didact.core.render import TextRenderer
from didact.core.types import Problem


@runtime_checkable
class Read(Protocol):
    """A task that was read from somewhere, and where each of its problems stands, by id."""

    @property
    def problems(self) -> Sequence[Problem]: ...
    @property
    def places(self) -> Mapping[str, str]: ...


def make_renderer(prompt: PromptSpec, tokenizer: Any, tasks: Sequence[TaskSource]) -> TextRenderer:
    """The renderer of these tasks.

    Raises:
        DataError: prompts of files are longer than the limit; says which.
    """
    renderer = TextRenderer(
        tokenizer,
        chat=prompt.chat,
        system=prompt.system,
        max_prompt_tokens=prompt.max_tokens,
        places=places_of(*tasks),
    )
    read = [table for task in tasks for table in _tables(task)]
    long = [
        f"{table.places.get(problem.id, problem.id)}: its prompt has {length} tokens"
        for table in read
        for problem, length in renderer.overlong(table.problems)
    ]
    if long:
        limit = f"The limit is {prompt.max_tokens}: raise 'prompt.max_tokens', or leave them out."
        raise DataError("\n".join([*first_few(long, "rows"), limit]))
    return renderer


def _tables(task: object) -> Iterator[Read]:
    """What of a task was read from files."""
    if isinstance(task, Read):
        yield task
    for part in getattr(task, "tasks", {}).values():
        yield from _tables(part)


def places_of(*tasks: object) -> dict[str, str]:
    """Where the problems of tasks that are read from files stand, by id."""
    found: dict[str, str] = {}
    for task in tasks:
        for name, place in getattr(task, "places", {}).items():
            other = found.get(name, place)
            found[name] = place if other == place else f"{other} or {place}"
    return found
