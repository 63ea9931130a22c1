"""KL estimators and the entropy bonus, per token, as losses.

With x = lp - ref, the log-ratio to a reference (`ref_logprobs`; bind it to `old_logprobs` for a
penalty on the step itself). http://joschu.net/blog/kl-approx.html names k1, k2 and k3. As a *loss*
only k2 has, on-policy, the gradient of the reverse KL; `straight_through` gives every estimator
that gradient and keeps its value (verl's "+"). Gradients stop at every argument but `logprobs`.
"""

from __future__ import annotations

from math import inf

from torch import Tensor

from didact.algorithms.tensors import Level, log_ratio_at
from didact.core.ranges import Positive


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor, *, straight_through: bool = False) -> Tensor:
    """x. Unbiased; as a loss its expected gradient is 0, so use it in a reward.

    verl 0.9.1 `kl_penalty`, kinds `kl` and `k1`; `k1+` with `straight_through`.

    Shapes: [B, T] each; returns [B, T].
    """
    drift = logprobs - ref_logprobs.detach()
    return _straight(drift, drift) if straight_through else drift


def kl_abs(logprobs: Tensor, ref_logprobs: Tensor, *, straight_through: bool = False) -> Tensor:
    """|x|. verl 0.9.1 `kl_penalty`, kind `abs`; the penalty of KL-Cov, arXiv:2505.22617.

    Shapes: [B, T] each; returns [B, T].
    """
    drift = logprobs - ref_logprobs.detach()
    return _straight(drift.abs(), drift) if straight_through else drift.abs()


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """x^2 / 2. verl 0.9.1 `kl_penalty`, kinds `mse` and `k2`; Trinity-RFT 0.6.0 `K2Fn`.

    Shapes: [B, T] each; returns [B, T].
    """
    return 0.5 * (logprobs - ref_logprobs.detach()).square()


def squared_log_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """(lp - old)^2, without the half: REP-OPMD of arXiv:2509.24203 (Trinity-RFT 0.6.0, regularizer
    `k2`, 0.1), and the quadratic of prime-rl@559b4477's loss (1e-3, old = behavior).

    Shapes: [B, T] each; returns [B, T].
    """
    return (logprobs - old_logprobs.detach()).square()


def kl_k3(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    log_ratio_limit: Positive = inf,
    value_limit: Positive = inf,
    straight_through: bool = False,
) -> Tensor:
    """exp(-x) + x - 1, unbiased and never negative. GRPO, arXiv:2402.03300 eq. 4; TRL, Trinity.

    Args:
        log_ratio_limit, value_limit: clamp x and the result to +-limit, without gradient beyond;
            see `low_variance_kl`.

    Shapes: [B, T] each; returns [B, T].
    """
    drift = logprobs - ref_logprobs.detach()
    inside = drift.clamp(-log_ratio_limit, log_ratio_limit)
    value = ((-inside).exp() + inside - 1).clamp(-value_limit, value_limit)
    return _straight(value, drift) if straight_through else value


def low_variance_kl(
    logprobs: Tensor, ref_logprobs: Tensor, *, straight_through: bool = False
) -> Tensor:
    """k3 with x clamped to +-20 and the value to +-10: verl 0.9.1 `kl_penalty`, kinds
    `low_var_kl` and `k3`; Trinity-RFT 0.6.0 `LowVarKLFn`.

    Shapes: [B, T] each; returns [B, T].
    """
    return kl_k3(
        logprobs,
        ref_logprobs,
        log_ratio_limit=20.0,
        value_limit=10.0,
        straight_through=straight_through,
    )


def corrected_kl(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    *,
    cap: Positive = inf,
    level: Level = "token",
) -> Tensor:
    """min(r, cap) k3, r = exp(lp - old), with the gradient of both factors: k3 under the policy
    that trains, not the one that sampled.

    TRL 1.16.0 `use_bias_correction_kl` (cap inf; level `geometric` where its ratio is the
    sequence's); Trinity-RFT 0.6.0 `CorrectedK3Fn` (cap 2); DeepSeek-V3.2, arXiv:2512.02556.

    Shapes: columns [B, T], mask bool [B, T]; returns [B, T].
    """
    ratio = log_ratio_at(logprobs, old_logprobs, mask, level=level, limit=inf).exp()
    return ratio.clamp(max=cap) * kl_k3(logprobs, ref_logprobs)


def negative_entropy(entropy: Tensor) -> Tensor:
    """-H: an entropy bonus with a positive weight. H is in nats, at the sampling temperature.

    Shapes: entropy [B, T], with gradient; returns [B, T].
    """
    return -entropy


def _straight(value: Tensor, drift: Tensor) -> Tensor:
    """The value of an estimator with the gradient of k2."""
    half = 0.5 * drift.square()
    return half + (value - half).detach()
