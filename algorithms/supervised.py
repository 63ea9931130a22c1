"""Likelihood of given tokens, and the probability weights that turn it into DFT and CHORD."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from didact.core.ranges import Fraction, NonNegative, Positive, Share


def negative_log_likelihood(logprobs: Tensor, *, cutoff: Fraction | None = None) -> Tensor:
    """Supervised fine-tuning: -log p of the token.

    With `cutoff` c the log-probability is clamped from above at log c, so that tokens the policy
    already gives more than c have no gradient (CHORD's cut-off, trinity-rft 0.6.0
    `chord_policy_loss.py`). UFT's term on hint tokens (arXiv:2505.16984) is the same loss on rows
    whose response is the hint.

    Args:
        logprobs: log p of each token under the policy, with gradient, [B, T].
        cutoff: probability above which a token teaches nothing more, in (0, 1]; None: no limit.

    Returns:
        [B, T].
    """
    if cutoff is None:
        return -logprobs
    if not 0.0 < cutoff <= 1.0:
        raise ValueError(f"negative_log_likelihood: cutoff must be in (0, 1], got {cutoff}")
    return -logprobs.clamp(max=math.log(cutoff))


def probability(logprobs: Tensor) -> Tensor:
    """Weight p, without gradient: times the likelihood loss it is DFT and CHORD's importance form.

    The gradient of -log p carries 1/p; this factor cancels it. DFT, arXiv:2508.05629
    (verl `fsdp_dft_trainer.py` at e153181); the same weight as `SFTISLossFn` of trinity-rft 0.6.0.

    Args:
        logprobs: [B, T].

    Returns:
        [B, T], in [0, 1].
    """
    return logprobs.detach().exp()


def uncertainty(logprobs: Tensor) -> Tensor:
    """Weight p (1 - p), without gradient: largest where the policy is undecided, at p = 1/2.

    CHORD-phi, arXiv:2508.11408. The paper does not write the stop-gradient; the released code
    (trinity-rft 0.6.0, `SFTPhiLossFn`) has it, and so do we.

    Args:
        logprobs: [B, T].

    Returns:
        [B, T], in [0, 1/4].
    """
    p = logprobs.detach().exp()
    return p * (1 - p)


def rarity(logprobs: Tensor, *, gamma: Positive = 0.1) -> Tensor:
    """Weight gamma p / (p + gamma)^2, without gradient: largest, 1/4, at p = gamma.

    Times the likelihood loss it has the gradient of LUFFY's shaped likelihood
    (arXiv:2504.14945) at unit advantage.

    Args:
        logprobs: [B, T].
        gamma: probability of the tokens that count most, above 0.

    Returns:
        [B, T], in [0, 1/4].
    """
    shaped = torch.sigmoid(logprobs.detach() - math.log(gamma))  # p / (p + gamma)
    return shaped * (1 - shaped)


def hardness(logprobs: Tensor, *, power: NonNegative = 0.5) -> Tensor:
    """Weight (1 - p)^power, without gradient: what the policy finds unlikely counts more.

    RL-PLUS, arXiv:2508.00222, multiplies the advantage of demonstration tokens with it, power 1/2
    (`rlplus_core_alg.py` at eb4aa4d).

    Args:
        logprobs: [B, T].
        power: 0 gives the weight 1 everywhere.

    Returns:
        [B, T], in [0, 1].
    """
    return (1 - logprobs.detach().exp()).clamp(min=0.0) ** power


def probability_cap(logprobs: Tensor, *, at_most: Share) -> Tensor:
    """Weight 1 where p <= at_most and 0 above, without gradient.

    `all_max_clip` of LUFFY and Critique-GRPO as released, where the average has a fixed divisor.
    Their token mean also stops *counting* such tokens: `select` it, bound to `now_logprobs`, with
    `recount: true`.

    Args:
        logprobs: [B, T].
        at_most: highest probability that still carries loss.

    Returns:
        [B, T], 0 or 1.
    """
    return (logprobs.detach().exp() <= at_most).to(logprobs.dtype)
