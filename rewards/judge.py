"""A reward that is a language model's judgement, as a number in its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from didact.core.backends.endpoint import Endpoint
from didact.core.backends.server_chat import Said, ServerChat
from didact.core.errors import RecipeError
from didact.core.protocols import Failed
from didact.core.ranges import Count, NonNegative, Positive, Whole
from didact.core.types import Trajectory
from didact.core.words import check_template, filled

TEMPLATE = """Grade an answer to a question.

Question:
{question}

Answer:
{response}

Say briefly what is right and what is wrong. Then end with one line "Score: N", with N from 0
(useless) to 10 (flawless).
"""


@dataclass(frozen=True)
class Judge:
    """A served model's score of an answer, brought to 0 … 1.

    An answer without a score, with one outside of the range, or cut at its longest is a failure
    and not a number.

    Attributes:
        url: of an OpenAI-compatible server, up to and with the version.
        template: what is asked, with {question} and {response}, and {answer} for the gold answer.
        pattern: regular expression whose one group is the score; the last match counts.
        low, high: scores that become 0 and 1.
        model: its name there; None: the only one that is served.
        temperature: 0 is greedy.
        max_tokens: longest judgement.
        timeout, retries, wait, concurrency, key: as in `Endpoint`.
    """

    url: str
    template: str = TEMPLATE
    pattern: str = r"(?i)score:\s*(-?\d+(?:\.\d+)?)"
    low: float = 0.0
    high: float = 10.0
    model: str | None = None
    temperature: NonNegative = 0.0
    max_tokens: Count = 512
    timeout: Positive = 600.0
    retries: Whole = 5
    wait: NonNegative = 600.0
    concurrency: Count = 32
    key: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        check_template("reward 'judge'", self.template, ("question", "response"))
        if re.compile(self.pattern).groups != 1:
            raise RecipeError("reward 'judge': its pattern needs exactly one group, the score.")
        if not self.low < self.high:
            raise RecipeError(f"reward 'judge': low {self.low} is not below high {self.high}.")

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[float | Failed]:
        endpoint = Endpoint(
            self.url, self.timeout, self.retries, self.wait, self.concurrency, self.key
        )
        chat = ServerChat(endpoint, self.model, self.temperature, self.max_tokens)
        asked = [[{"role": "user", "content": filled(self.template, t)}] for t in trajectories]
        return [self._score(answer) for answer in chat(asked)]

    def _score(self, answer: Said) -> float | Failed:
        if answer.cut:  # of "Score: 10" it may have left "Score: 1"
            return Failed(f"a judgement cut at its max_tokens of {self.max_tokens}")
        found = re.findall(self.pattern, answer.text)
        if not found:
            return Failed(f"no score in the judgement {answer.text[-80:]!r}")
        score = float(found[-1])
        if not self.low <= score <= self.high:
            return Failed(f"a score of {score:g}, outside of {self.low:g} to {self.high:g}")
        return (score - self.low) / (self.high - self.low)
