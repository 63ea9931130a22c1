"""The loss of NVlabs/NFT at b358fae, executed: value and gradient.

The release sums over tokens and divides by 1000, and sums sequences in its sequence variant, which
is the mean over sequences up to their number.
"""

import pytest

from didact.algorithms.negative_aware import nft, nft_sequence

WEIGHTS = ("uniform", "dr_grpo", "grpo")


def test_loss_agrees_in_value_and_gradient(compose, nft_case):
    given, args, wanted = nft_case["inputs"], nft_case["args"], nft_case["outputs"]
    settings = {
        "prompt_weight": WEIGHTS[args["normalize"]],
        "clamp_negative": args["clamp_negative"],
        "clamp_positive": args["clamp_positive"],
        "negative_weight": args["neg_weight"],
    }
    per_token = args["ratio_type"] == "token"
    loss, average = (nft, 1000) if per_token else (nft_sequence, "sequences")
    compose.agrees(
        [compose.term(loss, average=average, **settings)],
        given["response_mask"],
        {"logprobs": given["log_prob"]},
        wanted["pg_loss"],
        wanted["grad_log_prob"],
        times=1.0 if per_token else len(given["log_prob"]),
        old_logprobs=given["old_log_prob"],
        success=given["correct_mask"],
        success_rate=given["correct_rate"],
    )


def test_a_floor_of_zero_for_wrong_answers_is_refused(compose):
    with pytest.raises(ValueError, match="clamp_negative"):
        compose.run(
            [compose.term(nft, clamp_negative=0.0)],
            [[1]],
            {"logprobs": [[-1.0]]},
            old_logprobs=[[-1.0]],
            success=[[0.0]],
            success_rate=[[0.5]],
        )
