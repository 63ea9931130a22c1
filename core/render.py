"""Problems to token ids and back, for one tokenizer: with its chat template, or as plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy
import torch
from torch import Tensor

from didact.core.backends.tokenizers import decoded, encoded
from didact.core.errors import DataError
from didact.core.types import Problem, Prompt

T = TypeVar("T")
U = TypeVar("U")
Messages = str | Sequence[Mapping[str, str]]
QUESTION, THINK = "{question}", "<think>"


@dataclass(frozen=True)
class TextRenderer:
    """Renders with `tokenizer.apply_chat_template`, or as plain text after the bos token.

    Special tokens that occur inside plain text or a response are spelled out, not obeyed. Plain
    text renders a list of messages as their contents, one after another, separated by newlines.

    Attributes:
        tokenizer: of transformers, with an end-of-sequence token.
        chat: use the chat template; None: if the tokenizer has one.
        system: system message put before a chat, or text before a plain prompt.
        template: text around a question that is a string; must contain `{question}`.
        max_prompt_tokens: longest prompt; None: no limit.
        thinking: `enable_thinking` of templates that know it; None: their default.
        places: where problems stand, by id, for errors: `train.jsonl:17`.
    """

    tokenizer: Any
    chat: bool | None = None
    system: str | None = None
    template: str = QUESTION
    max_prompt_tokens: int | None = None
    thinking: bool | None = None
    places: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if QUESTION not in self.template:
            raise DataError(f"render: the template {self.template!r} does not contain {QUESTION}.")
        if self.chat and not self.tokenizer.chat_template:
            raise DataError("render: 'chat' is asked for, but the tokenizer has no chat template.")

    def prompts(self, problems: Sequence[Problem]) -> list[Prompt]:
        """Render problems.

        Raises:
            DataError: a prompt is longer than `max_prompt_tokens`, empty, or cannot be encoded.
        """
        contexts = self._rendered(problems)
        return [self._checked(*each) for each in zip(problems, contexts, strict=True)]

    def prompt(self, problem: Problem) -> Prompt:
        """Render one problem."""
        return self.prompts([problem])[0]

    def demonstrations(self, problems: Sequence[Problem]) -> list[list[Tensor]]:
        """Each problem's demonstrations as the model would have written them, int64 [T] each.

        A `<think>` that the prompt ends with is not opened again (ReLIFT does the same:
        TheRoadQaQ/ReLIFT at eb95454f, replace_response_in_batch).

        Raises:
            DataError: one cannot be encoded.
        """
        shown = iter(self._blaming(problems, self._shown))
        return [[next(shown) for _ in problem.demonstrations] for problem in problems]

    def _shown(self, problems: Sequence[Problem]) -> list[Tensor]:
        left = [
            self._left(problem, text) for problem in problems for text in problem.demonstrations
        ]
        return [_tensor([*ids, self.tokenizer.eos_token_id]) for ids in self._encode(left)]

    def _left(self, problem: Problem, shown: str) -> str:
        """What of a demonstration the prompt has left to be written."""
        if not shown.startswith(THINK):
            return shown
        asked = self.text(_tensor(self._contexts([self._asked(problem)])[0]))
        _, opened, space = asked.rpartition(THINK)
        if not opened or space.strip():
            return shown
        return shown.removeprefix(THINK).removeprefix(space)

    def _checked(self, problem: Problem, context: list[int]) -> Prompt:
        tokens = _tensor(context)
        if self.max_prompt_tokens is not None and len(tokens) > self.max_prompt_tokens:
            raise DataError(
                f"{self._named(problem)}: its prompt has {len(tokens)} tokens, the limit is "
                f"{self.max_prompt_tokens}; raise 'prompt.max_tokens' or leave the problem out."
            )
        return Prompt(problem.id, tokens, problem)

    def overlong(self, problems: Sequence[Problem]) -> list[tuple[Problem, int]]:
        """Those whose prompts exceed the limit, with their lengths in tokens.

        Only those that may are encoded: text has no more tokens than bytes, unless the tokenizer
        rewrites it to something longer.
        """
        limit = self.max_prompt_tokens
        if limit is None:
            return []
        around = len(self.context("?"))
        may = [each for each in problems if _bytes(each.question, around) > limit]
        lengths = map(len, self._rendered(may))
        return [(each, length) for each, length in zip(may, lengths, strict=True) if length > limit]

    def _rendered(self, problems: Sequence[Problem]) -> list[list[int]]:
        return self._blaming(problems, lambda some: self._contexts([*map(self._asked, some)]))

    def context(self, messages: Messages) -> Tensor:
        """What a model is given, int64 [P], P >= 1."""
        return _tensor(self._contexts([messages])[0])

    def response(self, text: str, *, end: bool = True) -> Tensor:
        """A response as the model would have written it, int64 [T]; `end` closes it."""
        ids = self._encode([text])[0]
        return _tensor([*ids, self.tokenizer.eos_token_id] if end else ids)

    def texts(self, responses: Sequence[Tensor]) -> list[str]:
        """Several decoded, in order."""
        return decoded(self.tokenizer, [tokens.tolist() for tokens in responses])

    def text(self, tokens: Tensor) -> str:
        """Decoded without special tokens."""
        return self.texts([tokens])[0]

    @property
    def _chats(self) -> bool:
        return bool(self.tokenizer.chat_template) if self.chat is None else self.chat

    def _named(self, problem: Problem) -> str:
        place = self.places.get(problem.id)
        return f"problem '{problem.id}'" + (f" ({place})" if place else "")

    def _blaming(
        self, problems: Sequence[Problem], make: Callable[[Sequence[Problem]], list[T]]
    ) -> list[T]:
        """What `make` makes of all problems together; an error names the problem it comes from."""
        try:
            return make(problems)
        except DataError as error:
            if len(problems) == 1:
                raise DataError(f"{self._named(problems[0])}: {error}") from None
            return [made for problem in problems for made in self._blaming([problem], make)]

    def _asked(self, problem: Problem) -> str | list[dict[str, str]]:
        if isinstance(problem.question, str):
            return self.template.replace(QUESTION, problem.question)
        return problem.question

    def _chat(self, messages: Messages) -> list[int]:
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        turns = [dict(message) for message in asked]
        if self.system is not None and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        options = {} if self.thinking is None else {"enable_thinking": self.thinking}
        return self._encoded(
            turns,
            lambda chat: self.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=False, **options
            ),
        )

    def _contexts(self, asked: Sequence[Messages]) -> list[list[int]]:
        if self._chats:
            contexts = [self._chat(messages) for messages in asked]
        else:
            first = self.tokenizer.bos_token_id
            begin = [] if first is None else [first]
            contexts = [[*begin, *ids] for ids in self._encode([*map(self._plain, asked)])]
        if not all(contexts):
            raise DataError("the prompt is empty: it has no text and the tokenizer no bos token.")
        return contexts

    def _plain(self, messages: Messages) -> str:
        said = [messages] if isinstance(messages, str) else [m["content"] for m in messages]
        return "\n".join(said if self.system is None else [self.system, *said])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._encoded(texts, partial(encoded, self.tokenizer))

    def _encoded(self, given: T, encode: Callable[[T], U]) -> U:
        try:
            return encode(given)
        except Exception as error:  # the tokenizers library raises bare Exceptions
            bad = sorted({c for c in str(given) if ord(c) > 126})
            raise DataError(
                f"text cannot be encoded ({error}); unusual characters: {bad}"
            ) from None


def _bytes(messages: Messages, around: int) -> int:
    """Bytes of a question, and for each of its messages the tokens that may stand around it."""
    said = [messages] if isinstance(messages, str) else [each["content"] for each in messages]
    return sum(len(text.encode()) + around for text in said)


def _tensor(ids: Sequence[int]) -> Tensor:
    return torch.from_numpy(numpy.array(ids, dtype=numpy.int64))  # a third of torch.tensor's time
