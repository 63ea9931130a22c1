"""Synthetic problems, trajectories, groups and runs that parts are tried on."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from didact.core.protocols import Learner, ReplayBuffer, Run, State
from didact.core.seeds import seed_of
from didact.core.types import (
    Feedback,
    Group,
    Problem,
    Prompt,
    Request,
    Sample,
    Sampling,
    Trajectory,
)
from didact.core.world import Alone

T = TypeVar("T")
U = TypeVar("U")
END = 0
"""The token that ends a sequence."""

PROBLEMS = (
    Problem("sum", "2 + 3 = ?", "5", ("2 + 3 = 5",), {"level": 1, "family": "test"}),
    Problem("word", "Say yes.", ["yes", "Yes"], ("yes",), {"level": 2, "family": "test"}),
    Problem("chat", [{"role": "user", "content": "7?"}], "7", ("7",), {"level": 1}),
    Problem("bare", "Anything?", None, (), {}),
)
RESPONSES = ("5", "yes", "The answer is \\boxed{7}.", "", "é∀😀", "no " * 40)


class Characters:
    """A renderer with one token for each character, its code point; 0 ends a sequence."""

    def prompt(self, problem: Problem) -> Prompt:
        """The problem rendered."""
        return Prompt(problem.id, self.context(problem.question), problem)

    def prompts(self, problems: Sequence[Problem]) -> list[Prompt]:
        """Several, in order."""
        return [self.prompt(problem) for problem in problems]

    def demonstrations(self, problems: Sequence[Problem]) -> list[list[Tensor]]:
        """The problems' demonstrations as responses."""
        return [[self.response(text) for text in problem.demonstrations] for problem in problems]

    def context(self, messages: str | Sequence[Mapping[str, str]]) -> Tensor:
        """What a model would be given."""
        if not isinstance(messages, str):
            messages = "\n".join(message["content"] for message in messages)
        return torch.tensor([ord(c) for c in messages], dtype=torch.int64)

    def response(self, text: str, *, end: bool = True) -> Tensor:
        """Text as a model would have written it."""
        return torch.tensor([ord(c) for c in text] + [END] * end, dtype=torch.int64)

    def text(self, tokens: Tensor) -> str:
        """The characters, without the end."""
        return "".join(chr(token) for token in tokens.tolist() if token != END)

    def texts(self, responses: Sequence[Tensor]) -> list[str]:
        """Several, in order."""
        return [self.text(tokens) for tokens in responses]


class Babbler:
    """A generator whose answer depends on the seed and the context alone."""

    version = 3

    def rest(self) -> None:
        """It holds nothing."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]:
        """One word of up to ten letters for each request."""
        return [self._one(request, sampling) for request in requests]

    def _one(self, request: Request, sampling: Sampling) -> Sample:
        draw = random.Random(seed_of(request.seed, *request.context.tolist()))
        text = "".join(draw.choices("abcdefg 0123456789", k=draw.randrange(1, 10)))
        whole = Characters().response(text)
        tokens = whole[: sampling.max_tokens]
        logprobs = torch.tensor([-draw.random() - 0.1 for _ in tokens], dtype=torch.float32)
        return Sample(tokens, logprobs, len(whole) > len(tokens), self.version)

    def sync(self, learner: Learner) -> None:
        """Nothing to take over."""

    def resume(self, learner: Learner, version: int) -> None:
        """Nothing to take over."""


class Stripes:
    """The ranks of a group, one after another in this process."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def map(self, call: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> Sequence[U]:
        """Each rank calls on its stripe; results in order."""
        stripes = [list(call(items[rank :: self.size])) for rank in range(self.size)]
        return [stripes[at % self.size][at // self.size] for at in range(len(items))]

    def barrier(self) -> None:
        """Nobody to wait for."""

    def beside(self) -> Stripes:
        """Itself: one process needs no second set of collectives."""
        return self


class Repeats:
    """A sampler that draws the same problems for ever."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems

    def draw(self, step: int) -> Sequence[Problem]:
        """All of them."""
        return self.problems

    def observe(self, groups: Sequence[Group]) -> None:
        """Learns nothing."""

    def state_dict(self) -> State:
        """Has none."""
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Has none."""


class Problems:
    """A task of numbered sums."""

    def __init__(self, size: int = 20) -> None:
        self.size = size

    def __getitem__(self, index: int) -> Problem:
        if not 0 <= index < self.size:
            raise IndexError(index)
        metadata = {"level": 1 + index % 4, "family": "sums"}
        return Problem(
            f"sum/{index}", f"{index} + 1 = ?", str(index + 1), (f"{index + 1}",), metadata
        )

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Problem]:
        return (self[index] for index in range(self.size))


def trajectory(
    prompt: Prompt, text: str, *, origin: str = "policy", reward: float | None = None, seed: int = 0
) -> Trajectory:
    """One response, with a sampler's log-probabilities if it is the policy's."""
    tokens = Characters().response(text)
    draw = torch.Generator().manual_seed(seed_of(seed, prompt.id, text) % 2**31)
    columns = {"behavior_logprobs": -torch.rand(len(tokens), generator=draw) - 0.1}
    made = Trajectory(
        prompt,
        tokens,
        torch.ones(len(tokens), dtype=torch.bool),
        origin,
        text=text,
        version=3 if origin == "policy" else None,
        columns=columns if origin == "policy" else {},
    )
    return made if reward is None else scored(made, reward)


def scored(member: Trajectory, reward: float) -> Trajectory:
    """As the stages `score` and `advantage` leave it."""
    return member.with_signals(
        **{"reward/first": reward},
        reward=reward,
        success=float(reward >= 1),
        advantages=reward - 0.5,
    )


def groups(problems: Sequence[Problem] = PROBLEMS, size: int = 3) -> list[Group]:
    """A scored group for each problem; the last has one member, and all rewards equal."""
    made = []
    for at, problem in enumerate(problems):
        prompt = Characters().prompt(problem)
        count = 1 if at == len(problems) - 1 else size
        rewards = [float((at + k) % 2) for k in range(count)]
        members = tuple(
            replace(
                trajectory(prompt, f"{'ab'[k % 2] * (k + 1)}{at}", reward=reward),
                feedback=(Feedback("look again", "test"),),
            )
            for k, reward in enumerate(rewards)
        )
        mean = sum(rewards) / count
        spread = (sum((reward - mean) ** 2 for reward in rewards) / count) ** 0.5
        solved = sum(rewards)
        summary = {
            "success_rate": mean,
            "positives": solved,
            "negatives": count - solved,
            "reward_mean": mean,
            "reward_std": spread,
        }
        made.append(Group(prompt, members, summary))
    return made


class AnyBuffer(defaultdict[str, ReplayBuffer]):
    """A buffer under every name, each holding what it was made with."""

    def __contains__(self, name: object) -> bool:
        return True


def make_run(
    *, seed: int = 7, ranks: int = 1, buffer: Callable[[], ReplayBuffer] | None = None
) -> Run:
    """A run that a source, critic or stage can be tried in, without models."""
    buffers: Mapping[str, ReplayBuffer] = AnyBuffer(buffer) if buffer else {}
    return Run(
        seed=seed,
        generators={"policy": Babbler()},
        learners={},
        frozen={},
        buffers=buffers,
        renderer=Characters(),
        world=Alone() if ranks == 1 else Stripes(ranks),
        sampler=Repeats(PROBLEMS),
        sampling=Sampling(max_tokens=16),
    )
