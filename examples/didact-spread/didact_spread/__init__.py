"""A reward for varied responses, and a loss that counts unsure tokens more, for didact."""

from torch import Tensor

from didact import Register, Trajectory, each, hookimpl, per_token

DIDACT_API = ">=1,<2"


def variety(trajectory: Trajectory) -> float:
    """The share of a response's tokens that are distinct; 0 for an empty response."""
    tokens = trajectory.tokens.tolist()
    return len(set(tokens)) / max(len(tokens), 1)


def spread(logprobs: Tensor, advantages: Tensor, *, gamma: float = 1.0) -> Tensor:
    """-(1 - p)^gamma A log p, [B, T]: REINFORCE in which sure tokens count less.

    The factor is that of the focal loss, Lin et al. 2017, arXiv:1708.02002, equation 4; it carries
    no gradient here, so it only weighs.

    Args:
        gamma: exponent; 0 is REINFORCE.
    """
    unsure = (1 - logprobs.detach().exp()).clamp(min=0)
    return -(unsure**gamma) * per_token(advantages, logprobs) * logprobs


@hookimpl
def register_rewards(register: Register) -> None:
    """Add the reward."""
    register("variety", each(variety))


@hookimpl
def register_losses(register: Register) -> None:
    """Add the loss."""
    register("spread", spread)
