"""Whether a learner gives samples the log-probabilities that they were drawn with."""

import torch

from didact.core.types import Problem, Prompt, Trajectory


def learners_logprobs(learner, requests, samples):
    """The learner's log-probabilities of each sample."""
    rows = [
        Trajectory(Prompt("p", r.context, Problem("p", "")), s.tokens, s.tokens >= 0, "policy")
        for r, s in zip(requests, samples, strict=True)
    ]
    rows = learner.freeze(rows, frozenset({"old_logprobs"}))
    return [row.columns["old_logprobs"] for row in rows]


def agree(learner, requests, samples):
    pairs = zip(samples, learners_logprobs(learner, requests, samples), strict=True)
    return all(torch.allclose(sample.logprobs, ours, atol=1e-4) for sample, ours in pairs)
