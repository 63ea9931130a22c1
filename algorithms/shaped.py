"""Bounded functions of the probability of a token, in place of an importance ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from didact.algorithms.rules import vanishes_with
from didact.algorithms.tensors import per_token
from didact.core.ranges import NonNegative, Positive

Reshape = Literal["p_div_p", "none", "logp", "p_logp", "square_root", "pow"]
"""The released code's names for what stands where the ratio stood (LUFFY `mix_core_alg.py` at
01f4ae0, Critique-GRPO `critique_core_algos.py` at e8f03a2)."""


@vanishes_with("advantages")
def shaped_likelihood(
    logprobs: Tensor,
    advantages: Tensor,
    *,
    reshape: Reshape = "p_div_p",
    gamma: Positive = 0.1,
    log_weight: float = 1.0,
    power: float = 0.5,
    floor: NonNegative | None = None,
    ceiling: NonNegative | None = None,
) -> Tensor:
    """-A f(p) for tokens the policy did not sample; the gradient flows through f.

    `p_div_p` is f(p) = p / (p + gamma), of LUFFY (arXiv:2504.14945) and Critique-GRPO
    (arXiv:2506.03106): its gradient with respect to log p, gamma p / (p + gamma)^2, is largest at
    p = gamma and never above 1/4. The others are options of the released code:
    `none` p, `logp` w log p, `p_logp` p + w log p, `square_root` p^(1/2), `pow` p^power.

    Args:
        logprobs: log p of each token under the policy, with gradient, [B, T].
        advantages: [B] or [B, T].
        reshape: which f.
        gamma: of `p_div_p`, above 0.
        log_weight: w of `logp` and `p_logp`.
        power: of `pow`.
        floor, ceiling: f is clamped to them; no gradient beyond. None: no limit.

    Returns:
        [B, T].
    """
    shaped = _shapes(gamma, log_weight, power)[reshape](logprobs, torch.zeros_like(logprobs))
    return -per_token(advantages, logprobs) * _bounded(shaped, floor, ceiling)


@vanishes_with("advantages")
def reshaped_ratio(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    reshape: Reshape = "p_div_p",
    gamma: Positive = 0.1,
    log_weight: float = 1.0,
    power: float = 0.5,
) -> Tensor:
    """-A g(p, p_old) for tokens the policy sampled: options that were released, none of them used.

    With the ratio r = p / p_old: `none` r, `logp` w log r (the release has no w there: leave it at
    1), `p_logp` r + w log r, `square_root` r^(1/2), `pow` r^power, and `p_div_p` f(p) / f(p_old)
    with f(p) = p / (p + gamma). Never clipped. Source: as `shaped_likelihood`, "on-policy
    reshape". HPT's version of SRFT (`mix_core_alg.py` at ae332f5) has the types `minus_old`
    (`logp`) and the plain ratio (`none`).

    Args:
        logprobs: with gradient, [B, T].
        old_logprobs: before the first step of the phase, [B, T].
        advantages: [B] or [B, T].
        reshape: which g.
        gamma, log_weight, power: of `p_div_p`, of `logp` and `p_logp`, of `pow`.

    Returns:
        [B, T].
    """
    old = old_logprobs.detach()
    shapes = _shapes(gamma, log_weight, power)
    if reshape == "p_div_p":
        shape = shapes[reshape]
        zero = torch.zeros_like(logprobs)
        ratio = shape(logprobs, zero) / shape(old, zero)
    else:
        ratio = shapes[reshape](logprobs, old)
    return -per_token(advantages, logprobs) * ratio


@vanishes_with("advantages")
def target_likelihood(
    logprobs: Tensor,
    behavior_logprobs: Tensor,
    advantages: Tensor,
    *,
    eps: NonNegative = 1e-6,
    floor: NonNegative | None = None,
    ceiling: NonNegative | None = None,
) -> Tensor:
    """-A p / (q + eps), where q is the probability under whoever wrote the token.

    A true importance ratio for demonstrations whose author gave probabilities, and for refinements:
    they were sampled under a refinement prompt, and are trained under the original one. Option
    `target_probs` of LUFFY and Critique-GRPO as released.

    Args:
        logprobs: under the policy and the prompt that is trained, with gradient, [B, T].
        behavior_logprobs: log q, [B, T].
        advantages: [B] or [B, T].
        eps: added to q.
        floor, ceiling: the ratio is clamped to them; no gradient beyond. None: no limit.

    Returns:
        [B, T].
    """
    ratio = logprobs.exp() / (behavior_logprobs.detach().exp() + eps)
    return -per_token(advantages, logprobs) * _bounded(ratio, floor, ceiling)


@vanishes_with("advantages")
def mixture_likelihood(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A 2 p / (p_old + q), with q = (p_old + 1) / 2 in the place of the expert's probability.

    Multiple importance sampling of RL-PLUS, arXiv:2508.00222, for tokens of demonstrations; the
    estimate q is halfway between the old policy and certainty. As released
    (`rlplus_core_alg.py` at eb4aa4d): 2 p / (1.5 p_old + 0.5), gradient through p only. RL-PLUS
    multiplies the advantage with the weight `hardness`.

    Args:
        logprobs: with gradient, [B, T].
        old_logprobs: before the first step of the phase, [B, T].
        advantages: [B] or [B, T].

    Returns:
        [B, T].
    """
    old = old_logprobs.detach().exp()
    return -per_token(advantages, logprobs) * 2 * logprobs.exp() / (old + 0.5 * (old + 1))


Shape = Callable[[Tensor, Tensor], Tensor]


def _shapes(gamma: float, log_weight: float, power: float) -> Mapping[str, Shape]:
    """Functions of log p and the log of what it is compared with (0 for a probability)."""
    return {
        "p_div_p": lambda new, _: torch.sigmoid(new - math.log(gamma)),
        "none": lambda new, old: (new - old).exp(),
        "logp": lambda new, old: log_weight * (new - old),
        "p_logp": lambda new, old: (new - old).exp() + log_weight * (new - old),
        "square_root": lambda new, old: (0.5 * (new - old)).exp(),
        "pow": lambda new, old: (power * (new - old)).exp(),
    }


def _bounded(value: Tensor, floor: float | None, ceiling: float | None) -> Tensor:
    if floor is None and ceiling is None:
        return value
    return value.clamp(min=floor, max=ceiling)
