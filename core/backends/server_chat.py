"""An OpenAI-compatible server as the other side of a chat, for judges and critics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from didact.core.backends.endpoint import Endpoint
from didact.core.backends.spread import named, spread

Message = Mapping[str, str]


class Said(NamedTuple):
    """An answer, and whether the length limit ended it."""

    text: str
    cut: bool


@dataclass(frozen=True)
class ServerChat:
    """Asks a served model in words, for judges and critics.

    Attributes:
        endpoint: where.
        served: the model's name there; None: the only one that is served.
        temperature: of its answers; 0 is greedy.
        max_tokens: longest answer.
        seed: of its answers, where the server knows seeds.
    """

    endpoint: Endpoint
    served: str | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int | None = None

    def __call__(self, conversations: Sequence[Sequence[Message]]) -> list[Said]:
        """One answer per conversation, in order.

        Raises:
            RunError: the server refuses, or stays down.
        """
        if not conversations:
            return []
        fixed = {
            "model": named(self.endpoint, self.served),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **({} if self.seed is None else {"seed": self.seed}),
        }
        bodies = [{**fixed, "messages": [dict(m) for m in chat]} for chat in conversations]
        answers = spread([self.endpoint], "/chat/completions", bodies)
        first = [answer["choices"][0] for answer in answers]
        return [
            Said(str(one["message"].get("content") or ""), one.get("finish_reason") == "length")
            for one in first
        ]
