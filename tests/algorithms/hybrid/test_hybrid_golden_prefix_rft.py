"""Prefix-RFT's loss, its choice of prefix tokens and its schedule against the released code.

Figures: ZeroYuHuang/prefix_rft at 5f5d2a1, executed. Row 3 starts with three expert tokens.
"""

import math

import pytest
import torch

from didact.algorithms.entropy_weighted import top_entropy
from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.rules import Bound
from didact.core.schedule import Schedule

FILE = "hybrid/prefix_rft_loss.json"
DIVISOR = {"average": 12.0}


@pytest.mark.parametrize("at", range(4))
def test_loss_has_the_released_value_and_gradient(compose, at):
    """One constant divisor for a micro-batch, as released (its trainer then weighs micro-batches by
    their share of rows: `{per_sequence: 12}` does not depend on their size). Without `enable_clip`
    the prefix tokens are not clipped, but keep the dual clip of 3."""
    data = compose.golden(FILE)
    given, case = data["inputs"], data["cases"][at]
    batch = compose.rows(
        given["mask"],
        prompts=["a"] * 4,
        columns={
            "advantages": data["advantages"][case["advantages"]],
            "old_logprobs": given["old_log_prob"],
            "prefix": given["prefix_mask"],
        },
    )
    clip = {} if case["config"]["enable_clip"] else {"clip_low": math.inf, "clip_high": math.inf}
    terms = [
        compose.term(ppo_clip, "own", tokens={"prefix": 0}, dual_clip=3.0, **DIVISOR),
        compose.term(ppo_clip, "prefix", tokens={"prefix": 1}, dual_clip=3.0, **DIVISOR, **clip),
    ]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    compose.agrees(terms, batch, live, case["pg_loss"], case["grad_wrt_log_prob"])


def test_only_the_most_uncertain_prefix_tokens_keep_their_advantage(compose):
    """The released reshaper sets the advantage of the others to 0: on-policy (ratio 1) the loss of
    every token is minus the advantage that it was left with."""
    data = compose.golden(FILE)
    case = data["entropy_reshape"]
    mask = [[1] * 12] * 4
    batch = compose.rows(
        mask,
        prompts=["a"] * 4,
        signals={"advantages": [case["adv_in"]] * 4},
        columns={
            "prefix": case["prefix_mask"],
            "old_entropy": case["entropy"],
            "old_logprobs": [[-1.0] * 12] * 4,
        },
    )
    terms = [
        compose.term(ppo_clip, "own", tokens={"prefix": 0}, average=1.0),
        compose.term(
            ppo_clip,
            "prefix",
            tokens={"prefix": 1},
            select=[Bound(top_entropy, {"drop": case["ratio"]})],
            average=1.0,
        ),
    ]
    live = {"logprobs": compose.leaf([[-1.0] * 12] * 4)}
    left = torch.tensor(case["adv_out"]).double()
    compose.agrees(terms, batch, live, -float(left.sum()), (-left).tolist())


def test_the_shortest_prefix_follows_the_released_schedule(compose):
    case = compose.golden(FILE)["cosine_low_schedule"]
    low = Schedule(cosine=(case["init"], case["target"]), over=case["n_steps"])
    for step, wanted in case["values"].items():
        assert low(int(step)) == pytest.approx(wanted, abs=1e-12)
