"""A critic that is a language model: one that the run samples itself, or one behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from didact.core.backends.endpoint import Endpoint
from didact.core.backends.server_chat import ServerChat
from didact.core.protocols import Failed, Run
from didact.core.ranges import Count, NonNegative, Positive, Whole
from didact.core.types import Feedback, Request, Trajectory
from didact.core.words import check_template, filled
from didact.feedback.policy import ask, sampling_of, seeds_of

TEMPLATE = """Review an answer to a question.

Question:
{question}

Answer:
{response}

Go through the answer step by step. Point at the first mistake and say why it is one; if there is
none, say so. Do not write a new answer. End with one line: "Conclusion: right" or
"Conclusion: wrong".
"""


@dataclass(frozen=True)
class LlmCritic:
    """Says in words what a language model thinks of an answer.

    Critique-GRPO (arXiv:2506.03106) asks a stronger model for such critiques, and the policy itself
    in a variant; the wording here is our own. An empty critique is a failure, not a silence.

    Attributes:
        template: what is asked, with {question} and {response}, and {answer} for the gold answer,
            which then reaches the policy through the critique.
        model: with `url`, the model's name there (None: the only one); without, which of the run's
            models speaks (None: the policy).
        url: of an OpenAI-compatible server, up to and with the version.
        temperature: of the critique; 0 is greedy.
        max_tokens: longest critique.
        timeout, retries, wait, concurrency, key: as in `Endpoint`.
    """

    template: str = TEMPLATE
    model: str | None = None
    url: str | None = None
    temperature: NonNegative = 0.0
    max_tokens: Count = 1024
    timeout: Positive = 600.0
    retries: Whole = 5
    wait: NonNegative = 600.0
    concurrency: Count = 32
    key: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        check_template("critic 'llm'", self.template, ("question", "response"))

    def __call__(self, trajectories: Sequence[Trajectory], run: Run) -> Sequence[Feedback | Failed]:
        chats = [[{"role": "user", "content": filled(self.template, t)}] for t in trajectories]
        if self.url is None:
            said = self._sampled(trajectories, chats, run)
        else:
            said = [answer.text for answer in run.world.map(self._server(self.url), chats)]
        source = self.model or ("policy" if self.url is None else "llm")
        return [
            Feedback(text.strip(), source) if text.strip() else Failed("an empty critique")
            for text in said
        ]

    def _server(self, url: str) -> ServerChat:
        endpoint = Endpoint(url, self.timeout, self.retries, self.wait, self.concurrency, self.key)
        return ServerChat(endpoint, self.model, self.temperature, self.max_tokens)

    def _sampled(
        self,
        trajectories: Sequence[Trajectory],
        chats: Sequence[list[dict[str, str]]],
        run: Run,
    ) -> list[str]:
        seeds = seeds_of(run, [t.prompt for t in trajectories], "critique")
        requests = [
            Request(run.renderer.context(_plain(chat, trajectory)), seed)
            for chat, trajectory, seed in zip(chats, trajectories, seeds, strict=True)
        ]
        sampling = sampling_of(run, self.temperature, 1.0, 0, self.max_tokens)
        samples = ask(run, self.model or "policy", requests, sampling)
        return list(run.renderer.texts([sample.tokens for sample in samples]))


def _plain(chat: list[dict[str, str]], trajectory: Trajectory) -> str | list[dict[str, str]]:
    """A chat if the problem is one, otherwise its text."""
    return chat[0]["content"] if isinstance(trajectory.prompt.problem.question, str) else chat
