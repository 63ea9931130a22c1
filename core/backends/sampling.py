"""Drawing the next token: temperature, top-k and top-p, by one uniform number per request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from didact.core.types import Sampling


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """One number in [0, 1) for each request and step, float64 [N, steps]; of the seed alone."""
    draws = [
        torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in seeds
    ]
    return torch.stack(draws)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next token of every row, and its log-probability.

    The inverse of the cumulative distribution at the uniform number, in the order of token ids. The
    log-probability is of the distribution drawn from: temperature, then top-k, then top-p applied
    (top-p keeps the token that reaches p). At temperature 0 the most probable token is taken and
    its log-probability is that at temperature 1.

    Args:
        logits: float [B, V].
        uniform: float64 [B].

    Returns:
        Token ids int64 [B] and log-probabilities float32 [B]; NaN where the logits are no
        distribution.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, _of(logits.log_softmax(-1), tokens)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if sampling.top_k or sampling.top_p < 1.0:
        logits = truncated(logits, sampling.top_k, sampling.top_p)
    logits = logits.log_softmax(-1)  # under the same name, or two of these big tensors stay
    below = logits.double().exp_().cumsum_(-1)
    total = below[:, -1:]
    wanted = torch.minimum(uniform[:, None] * total, torch.nextafter(total, total * 0))
    tokens = torch.searchsorted(below, wanted, right=True)[:, 0]
    tokens = tokens.clamp(max=logits.shape[-1] - 1)  # NaN logits lead beyond the vocabulary
    return tokens, _of(logits, tokens)


def held(sampling: Sampling) -> int:
    """Most bytes for each logit that `draw` holds at once, beside the logits it is given."""
    if sampling.temperature == 0:
        return 8
    return 28 if sampling.top_k or sampling.top_p < 1.0 else 12


def truncated(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """-inf outside of the `top_k` most probable tokens (0: all) and the nucleus of `top_p`."""
    ordered, order = logits.sort(stable=True, dim=-1, descending=True)
    if 0 < top_k < logits.shape[-1]:
        ordered[:, top_k:] = float("-inf")
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1).sub_(probs)
    ordered.masked_fill_((before >= top_p) & (before > 0), float("-inf"))
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def _of(logprobs: Tensor, tokens: Tensor) -> Tensor:
    return logprobs.gather(-1, tokens[:, None])[:, 0]
