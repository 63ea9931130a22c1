"""Refinements: the policy rewrites its answers, having heard what is said about them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from didact.core.errors import RecipeError
from didact.core.protocols import Names, Run
from didact.core.ranges import Count, Fraction, NonNegative, Whole
from didact.core.types import Group, Problem, Request, Sample, Trajectory
from didact.feedback.policy import ask, sampling_of, seeds_of

TEMPLATE = """You answered a question, and a reviewer looked at your answer.

Question:
{question}

Your answer:
{response}

The reviewer's comment:
{critique}

Write a new answer to the question from the start. Keep what was right, repair everything that the
comment points at, show each step, and give the result in the form that the question wants. Do not
mention this answer or the comment.
"""
FIELDS = ("question", "response", "critique")


@dataclass(frozen=True)
class RefinementSource:
    """n rewrites of every member that has feedback, trained under the original prompt.

    A rewrite is *sampled* under the question, the member's response and its critique; then it is
    re-rooted: the trained context is the original prompt alone, so no word of the critique enters
    it. Its behaviour log-probabilities belong to the other context and are dropped on purpose;
    signals, columns and feedback of the draft are not inherited. Critique-GRPO,
    arXiv:2506.03106. Departure from its release (zhangxy-2019/critique-GRPO at e8f03a20): the
    sampled token ids are kept, instead of decoding and tokenising them again.

    Attributes:
        template: the text of the request, with {question}, {response} and {critique}. In a chat it
            takes the place of the user's last message.
        n: rewrites per criticised member.
        model: who rewrites.
        temperature, top_p, top_k, max_tokens: as in `Sampling`; None: the run's.
    """

    template: str = TEMPLATE
    n: Count = 1
    model: str = "policy"
    temperature: NonNegative | None = None
    top_p: Fraction | None = None
    top_k: Whole | None = None
    max_tokens: Count | None = None

    def __post_init__(self) -> None:
        lacking = [name for name in FIELDS if f"{{{name}}}" not in self.template]
        if lacking:
            raise RecipeError(
                f"refinement: its template lacks {', '.join(f'{{{name}}}' for name in lacking)}; "
                f"it must say where question, response and critique go."
            )

    @property
    def needs(self) -> Names:
        return frozenset({"feedback"})

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        drafts = [[m for m in group.members if m.feedback] for group in groups]
        flat = [draft for row in drafts for draft in row for _ in range(self.n)]
        seeds = seeds_of(run, [draft.prompt for draft in flat], "refinement")
        requests = [
            Request(run.renderer.context(self._context(draft)), seed)
            for draft, seed in zip(flat, seeds, strict=True)
        ]
        sampling = sampling_of(run, self.temperature, self.top_p, self.top_k, self.max_tokens)
        samples = ask(run, self.model, requests, sampling)
        new = [_rerooted(d, sample, run) for d, sample in zip(flat, samples, strict=True)]
        made = iter(new)
        return [[next(made) for _ in range(len(row) * self.n)] for row in drafts]

    def _context(self, draft: Trajectory) -> str | list[Mapping[str, str]]:
        problem = draft.prompt.problem
        values = {
            "question": asked(problem),
            "response": draft.text,
            "critique": "\n".join(said.text for said in draft.feedback),
        }
        text = re.sub(r"\{(question|response|critique)\}", lambda m: values[m[1]], self.template)
        if isinstance(problem.question, str):
            return text
        last = _last_user(problem.question)
        return [*problem.question[:last], {"role": "user", "content": text}]


def asked(problem: Problem) -> str:
    """The user's question as text: of a chat, the user's last message."""
    if isinstance(problem.question, str):
        return problem.question
    return problem.question[_last_user(problem.question)]["content"]


def _last_user(chat: Sequence[Mapping[str, str]]) -> int:
    return max(
        (at for at, message in enumerate(chat) if message["role"] == "user"),
        default=len(chat) - 1,
    )


def _rerooted(draft: Trajectory, sample: Sample, run: Run) -> Trajectory:
    return replace(
        draft,
        tokens=sample.tokens,
        trainable=torch.ones_like(sample.tokens, dtype=torch.bool),
        origin="refinement",
        text=run.renderer.text(sample.tokens),
        truncated=sample.truncated,
        version=sample.version,
        signals={},
        columns={},
        feedback=(),
    )
