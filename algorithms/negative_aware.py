"""Learning from wrong answers by likelihood: negative-aware fine-tuning and its limits."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from didact.algorithms.tensors import masked_sum, per_token
from didact.core.ranges import NonNegative, Positive

PromptWeight = Literal["uniform", "dr_grpo", "grpo"]


def nft(
    logprobs: Tensor,
    old_logprobs: Tensor,
    success: Tensor,
    success_rate: Tensor,
    *,
    prompt_weight: PromptWeight = "dr_grpo",
    clamp_negative: NonNegative = 1.0,
    clamp_positive: NonNegative = 0.0,
    negative_weight: NonNegative = 1.0,
    rate_floor: Annotated[float, Field(ge=0, le=0.5)] = 0.02,
    log_ratio_limit: Positive = 10.0,
) -> Tensor:
    """w [c (-log st(r, clamp_positive)) + (1 - c) b (-log st((1 - p r) / (1 - p), clamp_negative))]

    NFT, arXiv:2505.18116 eq. 10, as NVlabs/NFT@b358faeb `DataParallelPPOActor.update_policy`.
    c is success, p the success rate of the prompt under the old policy, clamped to
    [rate_floor, 1 - rate_floor]; b is `negative_weight` (1 NFT, 0 rejection-sampling fine-tuning).
    st(x, m) has the value max(x, m) and the gradient of x (straight-through). r =
    exp(min(lp - old, log_ratio_limit)), hard. Gradients stop at all but `logprobs`.

    The release sums over tokens and divides by 1000 (average `{total: 1000}`); its clamp of p is
    not in the paper.

    Args:
        prompt_weight: w, named by the method whose gradient it has on-policy: `uniform` 1
            (`normalize` 0), `dr_grpo` 1 - p (1), `grpo` sqrt((1 - p) / p), population std (2).

    Shapes: logprobs, old_logprobs [B, T], success, success_rate [B] or [B, T]; returns [B, T].
    """
    ratio = (logprobs - old_logprobs.detach()).clamp(max=log_ratio_limit).exp()
    rate = per_token(success_rate, logprobs).clamp(rate_floor, 1 - rate_floor)
    positive, negative = _halves(ratio, rate, clamp_positive, clamp_negative)
    good = per_token(success, logprobs)
    loss = good * positive + (1 - good) * negative_weight * negative
    return _weight(rate, prompt_weight) * loss


def nft_sequence(
    logprobs: Tensor,
    old_logprobs: Tensor,
    success: Tensor,
    success_rate: Tensor,
    mask: Tensor,
    *,
    prompt_weight: PromptWeight = "uniform",
    clamp_negative: NonNegative = 1.0,
    clamp_positive: NonNegative = 0.0,
    negative_weight: NonNegative = 1.0,
    rate_floor: Annotated[float, Field(ge=0, le=0.5)] = 0.02,
    log_ratio_limit: Positive = 10.0,
) -> Tensor:
    """`nft` with the ratio of the whole sequence, one value per sequence on each of its tokens.

    r = exp(min(sum_t (lp - old), log_ratio_limit)). NVlabs/NFT@b358faeb, `ratio_type: sequence`,
    which sums over sequences: with average `sequences` this is that sum divided by their number.
    Departs from the release where its prompt weights mis-broadcast ([N, T] on [N]); here they are
    one number per sequence.

    Shapes: logprobs, old_logprobs [B, T], success, success_rate [B], mask bool [B, T];
    returns [B, T].
    """
    total = masked_sum(logprobs - old_logprobs.detach(), mask)[:, None]
    ratio = total.clamp(max=log_ratio_limit).exp()
    rate = per_token(success_rate, logprobs).clamp(rate_floor, 1 - rate_floor)
    positive, negative = _halves(ratio, rate, clamp_positive, clamp_negative)
    good = per_token(success, logprobs)
    loss = good * positive + (1 - good) * negative_weight * negative
    return (_weight(rate, prompt_weight) * loss).expand_as(logprobs)


def _halves(ratio: Tensor, rate: Tensor, low: float, floor: float) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods of a right and of a wrong answer."""
    if floor <= 0:
        raise ValueError(
            f"nft: clamp_negative is {floor}, but must be above 0: (1 - p r)/(1 - p) reaches 0 "
            f"and its logarithm no number."
        )
    implicit = (1 - rate * ratio) / (1 - rate)
    return -_straight_through(ratio, low).log(), -_straight_through(implicit, floor).log()


def _straight_through(value: Tensor, floor: float) -> Tensor:
    least = max(floor, torch.finfo(value.dtype).tiny)
    return value + (value.clamp(min=least) - value).detach()


def _weight(rate: Tensor, how: PromptWeight) -> Tensor:
    match how:
        case "uniform":
            return torch.ones_like(rate)
        case "dr_grpo":
            return 1 - rate
        case "grpo":
            return ((1 - rate) / rate).sqrt()
