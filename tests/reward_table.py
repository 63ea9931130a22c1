"""Rows with rewards and groups, and everything that an estimator of advantages may read of them."""

import torch
from hypothesis import strategies as st

COLUMNS = ("values", "old_logprobs", "ref_logprobs", "behavior_logprobs", "prefix")


def table(rewards, groups, seed=0, width=7):
    """Everything an estimator may read, for rows with these rewards and groups."""
    noise = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, generator=noise, dtype=torch.float64)

    n = len(rewards)
    mask = random(n, width) > 0.3
    read = {
        "rewards": torch.tensor(rewards, dtype=torch.float64),
        "groups": torch.tensor(groups),
        "mask": mask,
        "lengths": mask.sum(1),
        "success": (torch.tensor(rewards) > 0).double(),
        "on_policy": (random(n) > 0.4).double(),
        "draws": random(n),
        "baseline": random(n),
        "strata": (random(n) * 3).floor(),
        "prefix_id": (random(n) * 2).floor(),
        "positives": (random(n) * 4).floor(),
        "negatives": (random(n) * 4).floor(),
        "reward_parts": random(n, 2),
        "reward_weights": torch.tensor([1.0, 0.5], dtype=torch.float64),
        "old_collision": random(n, width),
    }
    read |= {name: -random(n, width) for name in COLUMNS}
    read["prefix"] = (read["prefix"] < -0.5).double()
    return read


@st.composite
def steps(draw, least=1):
    groups = draw(st.lists(st.integers(0, 3), min_size=least, max_size=12))
    kinds = sorted(set(groups))
    numbers = st.sampled_from([0.0, 1.0, -1.0, 0.1, 2.5]) | st.floats(-5, 5, width=32)
    rewards = draw(st.lists(numbers, min_size=len(groups), max_size=len(groups)))
    return rewards, [kinds.index(x) for x in groups]
