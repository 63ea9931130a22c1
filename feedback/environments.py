"""Environments: what answers a response in an episode of several turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from didact.core.protocols import Failed, RewardProvider
from didact.core.ranges import Count
from didact.core.types import Prompt, Trajectory


@dataclass(frozen=True)
class SecondTry:
    """Says that an answer is wrong, nothing more, until it is right or the turns are over.

    Unary feedback of UFO, lichengliu03/unary-feedback at b9eb4bd0 (ragen/env/metamathqa/env.py).
    An answer that the reward cannot score ends the episode: nobody knows whether it was wrong.
    After the last answer nothing is said, right or wrong; the release appends a word of praise.

    Attributes:
        reward: the verifier; it reads the response alone.
        turns: most answers.
        message: what is said after a wrong answer.
        solved_at: least reward of a right answer.
    """

    reward: RewardProvider
    turns: Count = 5
    message: str = "\nThat is not right. Try once more.\n"
    solved_at: float = 1.0

    def reply(self, prompt: Prompt, response: str, turn: int) -> str | None:
        if turn + 1 >= self.turns:
            return None
        nothing = torch.zeros(0, dtype=torch.int64)
        answer = Trajectory(prompt, nothing, nothing.bool(), "policy", text=response)
        (value,) = self.reward([answer])
        if isinstance(value, Failed) or value >= self.solved_at:
            return None
        return self.message
