"""Small stand-ins for the tests of this folder: a character renderer and a scripted generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch

from didact.core.protocols import Run
from didact.core.types import Group, Problem, Prompt, Request, Sample, Sampling, Trajectory
from didact.core.world import Alone

EOS = 0


class Letters:
    """FAKE renderer: one token per character, its code point; `eos` ends a sequence."""

    def __init__(self, eos: int = EOS) -> None:
        self.eos = eos

    def prompt(self, problem: Problem) -> Prompt:
        return Prompt(problem.id, self.context(problem.question), problem)

    def prompts(self, problems):
        return [self.prompt(problem) for problem in problems]

    def demonstrations(self, problems):
        return [[self.response(text) for text in problem.demonstrations] for problem in problems]

    def context(self, messages):
        if not isinstance(messages, str):
            messages = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return torch.tensor([ord(c) for c in messages], dtype=torch.int64)

    def response(self, text, *, end=True):
        return torch.tensor([ord(c) for c in text] + [self.eos] * end, dtype=torch.int64)

    def text(self, tokens):
        return "".join(chr(token) for token in tokens.tolist() if token != self.eos)

    def texts(self, responses):
        return [self.text(tokens) for tokens in responses]


class Scripted:
    """FAKE generator: says what `speak(context text, seed)` returns, one token per character.

    The log-probability of a token is -(its position + 1) / 10, so that cuts and joins show.
    """

    def __init__(self, speak: Callable[[str, int], str], version: int = 0) -> None:
        self.speak, self.version = speak, version
        self.calls: list[tuple[list[Request], Sampling]] = []

    def rest(self) -> None:
        pass

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        self.calls.append((list(requests), sampling))
        return [self._one(request, sampling) for request in requests]

    def _one(self, request: Request, sampling: Sampling) -> Sample:
        letters = Letters()
        whole = letters.response(self.speak(letters.text(request.context), request.seed))
        tokens = whole[: sampling.max_tokens]
        logprobs = -torch.arange(1, len(tokens) + 1) / 10
        return Sample(tokens, logprobs, len(whole) > len(tokens), self.version)

    def sync(self, learner) -> None:
        self.version += 1


class Stripes:
    """FAKE world: the ranks of a group, one after the other in this process."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size
        self.stripes: list[int] = []

    def map(self, call, items):
        out = [None] * len(items)
        for rank in range(self.size):
            stripe = items[rank :: self.size]
            self.stripes.append(len(stripe))
            out[rank :: self.size] = call(stripe)
        return out

    def barrier(self) -> None: ...


def noise(context: str, seed: int) -> str:
    """A word that depends on the seed alone."""
    return "".join(random.Random(seed).choices("abcdefgh", k=8))


@pytest.fixture
def tools():
    """The stand-ins, and `make_run` and `group` to build with."""

    def make_run(
        speak=noise, *, world=None, version=0, max_tokens=64, buffers=None, end=EOS, **more
    ) -> Run:
        generators = {"policy": Scripted(speak, version)}
        return Run(
            seed=7,
            generators=more.pop("generators", generators),
            learners={},
            frozen={},
            buffers=buffers or {},
            renderer=Letters(end),
            world=world or Alone(),
            sampler=None,
            sampling=Sampling(max_tokens=max_tokens),
            **more,
        )

    def group(name="p", question="q?", **problem) -> Group:
        return Group(Letters().prompt(Problem(name, question, **problem)))

    def said(text, prompt=None, origin="policy", **more) -> Trajectory:
        tokens = Letters().response(text)
        return Trajectory(
            prompt or group().prompt,
            tokens,
            torch.ones_like(tokens, dtype=torch.bool),
            origin,
            text=text,
            **more,
        )

    return SimpleNamespace(
        make_run=make_run,
        group=group,
        said=said,
        noise=noise,
        Letters=Letters,
        Scripted=Scripted,
        Stripes=Stripes,
        EOS=EOS,
    )
