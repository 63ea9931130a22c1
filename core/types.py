"""The records that flow through the framework: Problem, Prompt, Trajectory and Group; and what
goes to a generator and comes back: Request, Sampling and Sample.

They are frozen. Trajectory and Group are open: a method adds *signals* (scalars) and *columns* (one
value per token), never fields. A name that is absent is unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T", "Trajectory", "Group")


@dataclass(frozen=True, slots=True)
class Problem:
    """One task item as text, before a tokenizer has seen it.

    Attributes:
        id: stable across epochs, runs and machines; replay, curricula and seeds key on it.
        question: the user's text, or a chat as a list of `{"role", "content"}` messages.
        answer: what the verifier compares with (plain JSON data).
        demonstrations: expert responses, as text, without an end-of-sequence token.
        metadata: plain JSON data, e.g. `{"level": 2}`; a recipe selects by `prompt.level`.
    """

    id: str
    question: str | list[dict[str, str]]
    answer: Any = None
    demonstrations: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A rendered problem: what the model is given.

    Attributes:
        id: the problem's id.
        tokens: rendered context, int64 [P].
        problem: the problem it was rendered from (question, answer, demonstrations, metadata).
    """

    id: str
    tokens: Tensor
    problem: Problem

    @property
    def answer(self) -> Any:
        return self.problem.answer


@dataclass(frozen=True, slots=True)
class Feedback:
    """A judgement in words, with who gave it."""

    text: str
    source: str


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One response to one prompt; never mutated, only replaced.

    Attributes:
        prompt: the context it is *trained* under.
        tokens: the response, int64 [T]; environment replies and the final end-of-sequence included.
        trainable: which of them carry loss (the policy wrote them), bool [T].
        origin: "policy", "refinement", "demonstration", "replay", or a plug-in's own word.
        text: the response decoded without special tokens; what rewards and critics read.
        truncated: the length limit ended it, not an end-of-sequence token.
        version: number of weight syncs the sampler had seen; None if not sampled from us.
        signals: named scalars that stages add ("reward", "advantages", ...).
        columns: named per-token values, float [T] ("behavior_logprobs", "old_logprobs", ...).
        feedback: what critics said about it.
    """

    prompt: Prompt
    tokens: Tensor
    trainable: Tensor
    origin: str
    text: str = ""
    truncated: bool = False
    version: int | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    feedback: tuple[Feedback, ...] = ()

    def with_signals(self, **signals: float) -> Trajectory:
        return changed(self, signals={**self.signals, **signals})

    def with_columns(self, **columns: Tensor) -> Trajectory:
        return changed(self, columns={**self.columns, **columns})


@dataclass(frozen=True, eq=False)
class Group:
    """A prompt and every trajectory we have for it in this step.

    Attributes:
        signals: what is known of the whole group ("success_rate", "reward_mean", ...). Members
            inherit them when they leave the group for a phase or a buffer.
    """

    prompt: Prompt
    members: tuple[Trajectory, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)

    def add(self, new: Iterable[Trajectory]) -> Group:
        return changed(self, members=self.members + tuple(new))

    def each(self, call: Callable[[Trajectory], Trajectory]) -> Group:
        """With what the call makes of every member in its place."""
        return changed(self, members=tuple(map(call, self.members)))

    def leaving(self) -> Iterable[Trajectory]:
        """The members, each carrying the group's signals beside its own (its own win)."""
        for member in self.members:
            yield changed(member, signals={**self.signals, **member.signals})


@dataclass(frozen=True)
class Sampling:
    """How the policy is sampled.

    Attributes:
        temperature: 0 is greedy.
        top_p, top_k: nucleus and top-k truncation; 1.0 and 0 switch them off.
        max_tokens: longest response, in tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Request:
    """One continuation to sample.

    Attributes:
        context: int64 [P].
        seed: its own.
        max_tokens: its longest response, if that is less than the sampling's. A generator spares
            itself the rest if it can; what is longer is cut.
    """

    context: Tensor
    seed: int
    max_tokens: int | None = None

    def limit(self, sampling: Sampling) -> int:
        """Most tokens of this one."""
        own = sampling.max_tokens
        return own if self.max_tokens is None else min(own, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled continuation.

    Attributes:
        tokens: int64 [T], the end-of-sequence token included if it was reached.
        logprobs: float32 [T], of the distribution drawn from, after temperature and truncation.
        truncated: no end-of-sequence token within `max_tokens`.
        version: weight version it was sampled with.
    """

    tokens: Tensor
    logprobs: Tensor
    truncated: bool
    version: int


def changed(record: T, **fields: Any) -> T:
    """A copy with other values: `dataclasses.replace`, five times as fast; a step makes thousands.

    Raises:
        TypeError: the record has no such field.
    """
    known = record.__dict__
    values = known | fields
    if len(values) != len(known):
        raise TypeError(f"{type(record).__name__} has no {sorted(fields.keys() - known)}")
    copy = object.__new__(record.__class__)
    object.__setattr__(copy, "__dict__", values)
    return copy
