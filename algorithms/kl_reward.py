"""A KL penalty inside the reward: fixed, or steered to a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from didact.algorithms.regularizers import kl_abs, kl_k1, kl_k2, kl_k3
from didact.algorithms.tensors import masked_mean
from didact.algorithms.token_advantages import token_rewards
from didact.core.bind import adds
from didact.core.ranges import NonNegative, Positive

KL = Literal["k1", "abs", "k2", "k3"]
ESTIMATORS = {"k1": kl_k1, "abs": kl_abs, "k2": kl_k2, "k3": kl_k3}


@adds("token_rewards")
def reward_minus_kl(
    rewards: Tensor,
    mask: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    beta: NonNegative,
    estimator: KL = "k1",
    clip: NonNegative = torch.inf,
) -> dict[str, Tensor]:
    """Token rewards r - beta KL(old || ref): PPO and REINFORCE++ in verl 0.9.1, TRL and OpenRLHF.

    With a policy trained on demonstrations as the reference it is demonstration-regularised RL,
    arXiv:2310.17303 (a reconstruction: the paper has no language model).

    Args:
        rewards: [N], placed at the last loss token, or token rewards [N, T].
        beta: per nat. estimator: of the KL, on the sampled token.
        clip: rewards are clipped to +-clip first (Critique-RL: 10, after leave-one-out).

    Returns:
        "token_rewards", [N, T].
    """
    placed = token_rewards(rewards.clamp(-clip, clip), mask)
    penalty = ESTIMATORS[estimator](old_logprobs, ref_logprobs)
    return {"token_rewards": torch.where(mask, placed - beta * penalty, 0.0)}


def next_beta(beta: float, kl: float, *, target: float, horizon: float, rows: int) -> float:
    """beta (1 + clip(kl/target - 1, -0.2, 0.2) rows/horizon). arXiv:1909.08593, verl 0.9.1."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * rows / horizon)


class AdaptiveKL:
    """`reward_minus_kl` whose beta follows the KL of each step, mean over responses of token means.

    Args:
        beta: of the first step. target: in nats per token. horizon: in responses.
        estimator, clip: as `reward_minus_kl`.
    """

    adds = frozenset({"token_rewards"})

    def __init__(
        self,
        *,
        beta: NonNegative = 0.001,
        target: Positive = 0.1,
        horizon: Positive = 10000.0,
        estimator: KL = "k1",
        clip: NonNegative = torch.inf,
    ) -> None:
        self.beta, self.target, self.horizon = beta, target, horizon
        self.estimator: KL = estimator
        self.clip = clip

    def __call__(
        self, rewards: Tensor, mask: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor
    ) -> dict[str, Tensor]:
        """Token rewards with the beta of now; then beta moves."""
        out = reward_minus_kl(
            rewards,
            mask,
            old_logprobs,
            ref_logprobs,
            beta=self.beta,
            estimator=self.estimator,
            clip=self.clip,
        )
        kl = ESTIMATORS[self.estimator](old_logprobs, ref_logprobs)
        mean = float(masked_mean(kl, mask).mean())
        self.beta = next_beta(
            self.beta, mean, target=self.target, horizon=self.horizon, rows=len(mask)
        )
        return out

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = state["beta"]
