"""A factory of responses, for the tests of this folder."""

from __future__ import annotations

import pytest
import torch

from didact.core.types import Problem, Prompt, Trajectory


@pytest.fixture
def response():
    """`response("text", answer=…)`: a trajectory with that text; `length` sets its tokens."""

    def make(text="", answer=None, *, tokens=None, length=None, problem="p", truncated=False):
        if tokens is None:
            tokens = [0] * (len(text) if length is None else length)
        ids = torch.tensor(tokens, dtype=torch.int64)
        prompt = Prompt(problem, torch.tensor([1]), Problem(problem, "q", answer))
        mask = torch.ones(len(ids), dtype=torch.bool)
        return Trajectory(prompt, ids, mask, "policy", text=text, truncated=truncated)

    return make
