"""Rules that look at a whole mini-batch or a whole group: BAPO's bounds, pairwise consistency."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from didact.algorithms.adaptive_clip import BalancedClip, positive_weight
from didact.algorithms.consistency import Consistency, Unite
from didact.algorithms.policy_gradient import reinforce
from didact.algorithms.rules import Bound, Sum, Term
from didact.algorithms.weights import stored
from didact.core.errors import RecipeError
from didact.core.phase import Phase, Trigger
from didact.core.types import Group
from didact.core.where import Where
from didact.feedback.buffers import Queue

PIECES = ([[0, 1, 2]], [[0], [1], [2]], [[2, 0], [1]])


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def bapo(compose):
    (case,) = compose.golden("replay_curriculum/bapo_loss.json")["cases"]
    ratio = (tensor(case["new"]) - tensor(case["old"])).exp()
    return case, ratio, tensor(case["adv"]), tensor(case["mask"]).bool()


def search(case, result):
    names = ("low_start", "low_step", "high_start", "high_step")
    theirs = ("lower_start", "lower_step", "upper_start", "upper_step")
    settings = {ours: case[name] for ours, name in zip(names, theirs, strict=True)}
    most = {"low_most": result["lower_max"], "high_most": result["upper_max"]}
    return {**settings, **most, "target": result["target"]}


def test_bounds_and_loss_of_bapo_agree_with_the_released_search(compose):
    """WooooDyy/BAPO at 7287044, executed; the log-probabilities are float32 there: 1e-6."""
    case, ratio, gain, mask = bapo(compose)
    for result in case["results"]:
        settings = search(case, result)
        low, high = BalancedClip(**settings).searched(ratio, gain, mask)
        told = result["metrics"][0]
        assert (low, high) == pytest.approx((told["clip_low"], told["clip_high"]), abs=1e-9)
        reached = positive_weight(ratio, gain, mask, low=low, high=high, measure="released")
        assert reached == pytest.approx(told["pos_neg_ratio"], abs=1e-6)
        rule = BalancedClip(dual_clip=case["clip_c"], **settings)
        new = case["new"]
        batch = compose.batch(
            mask, {"old_logprobs": case["old"], "now_logprobs": new, "advantages": case["adv"]}
        )
        for pieces in PIECES:
            leaf = tensor(new).requires_grad_(True)
            bound = rule.over(batch, 0)
            value = sum(sum(bound(batch.take(p), {"logprobs": leaf[p]}).values()) for p in pieces)
            assert float(value.detach()) == pytest.approx(result["loss"], abs=1e-6)


def test_under_the_share_of_gradients_a_higher_lower_bound_helps(compose):
    """The released sums count what is clipped, so there it never does."""
    _, ratio, gain, mask = bapo(compose)
    shares, released = (
        [
            positive_weight(ratio, gain, mask, low=low, high=1.2, measure=measure)
            for low in (0.2, 0.6, 0.9, 1.5)
        ]
        for measure in ("gradient_share", "released")
    )
    assert shares == sorted(shares) and shares[0] < shares[-1]
    assert released == sorted(released, reverse=True)
    everything = positive_weight(ratio, gain.abs(), mask, low=0.6, high=9.0, measure="released")
    assert everything == float("inf")


def test_a_target_that_is_met_leaves_the_bounds_where_they_start(compose):
    _, ratio, gain, mask = bapo(compose)
    assert BalancedClip(target=0.0).searched(ratio, gain, mask) == (0.6, 1.2)
    nothing = torch.zeros_like(mask)
    shares = BalancedClip(measure="gradient_share")
    assert shares.searched(ratio, gain, nothing) == (0.6, 1.2)


class Learner:
    """Reads out how often it was asked."""

    asked = 0

    def freeze(self, rows, columns):
        self.asked += 1
        mine = {name: float(self.asked) for name in columns}
        return [
            row.with_columns(**{n: torch.full(row.tokens.shape, v) for n, v in mine.items()})
            for row in rows
        ]


def test_columns_of_now_are_read_before_every_step_and_those_of_old_once(compose):
    rows = compose.batch([[1, 1]] * 4, {}).rows
    pool = Queue()
    pool.add([row.with_signals(advantages=1.0) for row in rows])
    phase = Phase("rl", Where(), pool, Trigger(), BalancedClip(), batch_size=2)
    run = SimpleNamespace(
        step=0,
        metrics={},
        learners={"policy": Learner()},
        generators={"policy": SimpleNamespace(version=0)},
        frozen={},
    )
    read = [
        {name: float(batch.stored(name)[0, 0]) for name in ("old_logprobs", "now_logprobs")}
        for batch in phase.batches(run)
    ]
    assert read == [
        {"old_logprobs": 1.0, "now_logprobs": 2.0},
        {"old_logprobs": 1.0, "now_logprobs": 3.0},
    ]


def group_of(numbers, at):
    return [n for n, g in enumerate(numbers) if g == at]


def test_consistency_agrees_with_the_papers_formula(compose, consistency_case):
    """Not released output. The file adds up the groups; we take their mean."""
    given, wanted = consistency_case["inputs"], consistency_case["outputs"]
    batch = compose.batch(given["mask"], {"old_logprobs": given["old_log_prob"]})
    united = [
        row.with_signals(pair=float(group), reward=reward)
        for row, group, reward in zip(batch.rows, given["group"], given["reward"], strict=True)
    ]
    batch = type(batch)(tuple(united))
    kinds = sorted(set(given["group"]))
    bound = Consistency(tau=consistency_case["args"]["tau"]).over(batch, 0)
    leaf = tensor(given["log_prob"]).requires_grad_(True)
    whole = bound(batch, {"logprobs": leaf})["consistency"]
    parts = [group_of(given["group"], kind) for kind in kinds]
    split = sum(bound(batch.take(p), {"logprobs": leaf[p]})["consistency"] for p in parts)
    for value in (whole, split):
        assert float(value.detach()) * len(kinds) == pytest.approx(wanted["loss"], abs=1e-7)
        (gradient,) = torch.autograd.grad(value, leaf)
        expected = tensor(wanted["grad_log_prob"])
        torch.testing.assert_close(gradient * len(kinds), expected, rtol=0, atol=1e-7)


def test_at_the_old_policy_consistency_has_the_gradient_of_group_relative_reinforce(compose):
    """2 tau / K times that of -sum (R - mean) log pi, K = 3."""
    mask, logprobs = [[1, 1], [1, 0], [1, 1]], tensor([[-1.0, -2.0], [-0.5, 9.0], [-3.0, -1.0]])
    batch = compose.batch(mask, {"old_logprobs": logprobs})
    rewards = (1.0, 0.0, 0.5)
    united = [
        row.with_signals(pair=1.0, reward=reward)
        for row, reward in zip(batch.rows, rewards, strict=True)
    ]
    batch = type(batch)(tuple(united))
    leaf = logprobs.clone().requires_grad_(True)
    value = Consistency(tau=0.3).over(batch, 0)(batch, {"logprobs": leaf})["consistency"]
    (gradient,) = torch.autograd.grad(value, leaf)
    centred = tensor(rewards) - 0.5
    expected = -(2 * 0.3 / 3) * centred[:, None] * tensor(mask)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


class Bare:
    def __init__(self):
        self.seed, self.step, self.drawn = 0, 3, Counter()


def test_a_group_is_united_by_a_number_of_its_own(compose):
    rows = compose.batch([[1], [1], [1], [1]], {}).rows
    groups = [Group(rows[0].prompt, rows[:2]), Group(rows[0].prompt, rows[2:])]
    run = Bare()
    united = [*Unite()(groups, run), *Unite()(groups, run)]  # as in two rounds of `fill`
    numbers = [{member.signals["pair"] for member in group.members} for group in united]
    assert [len(found) for found in numbers] == [1] * 4
    assert len(set.union(*numbers)) == 4


@pytest.mark.parametrize("how", ["tokens", "sequences", "sequence_sum", "prompts"])
@pytest.mark.parametrize("batch_average", [False, True])
def test_recounted_a_rejected_token_is_as_good_as_masked(compose, how, batch_average):
    """verl takes rejected tokens out of the response mask; a weight of 0 alone counts them."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()
    keep = tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1]])
    logprobs = tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, 9.0], [-0.2, -0.4, -0.8]])
    term = {"loss": Bound(reinforce), "average": how, "batch_average": batch_average}
    values = []
    for inside, select in (
        (mask, [Bound(stored, {}, {"number": "keep"})]),
        (mask & (keep > 0), []),
    ):
        batch = compose.batch(inside, {"advantages": [1.0, -2.0, 0.5], "keep": keep})
        bound = Sum([Term("t", select=select, recount=True, **term)]).over(batch, 0)
        leaf = logprobs.clone().requires_grad_(True)
        pieces = [bound(batch.take([at]), {"logprobs": leaf[[at]]})["t"] for at in range(3)]
        whole = bound(batch, {"logprobs": leaf})["t"]
        torch.testing.assert_close(sum(pieces), whole, rtol=1e-12, atol=1e-12)
        values.append((whole.detach(), *torch.autograd.grad(whole, leaf)))
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    batch = compose.batch(mask, {"advantages": [1.0, -2.0, 0.5], "keep": keep})
    counted = Sum([Term("t", select=[Bound(stored, {}, {"number": "keep"})], **term)])
    plain = counted.over(batch, 0)(batch, {"logprobs": logprobs})["t"]
    assert float(plain) != pytest.approx(float(values[0][0]), abs=1e-6)


@pytest.mark.parametrize(
    "rule, lacking",
    [
        (BalancedClip(), "now_logprobs"),
        (BalancedClip(), "advantages"),
        (BalancedClip(old="behavior_logprobs"), "behavior_logprobs"),
        (Consistency(), "reward"),
        (Consistency(), "old_logprobs"),
    ],
)
def test_a_rule_names_the_column_that_rows_lack(compose, rule, lacking):
    names = {"now_logprobs", "old_logprobs", "behavior_logprobs", "advantages"} - {lacking}
    batch = compose.batch([[1, 1], [1, 0]], {name: [[-1.0, -1.0]] * 2 for name in names})
    signals = {"reward": 1.0, "pair": 1.0}
    signals = {name: value for name, value in signals.items() if name != lacking}
    batch = type(batch)(tuple(row.with_signals(**signals) for row in batch.rows))
    with pytest.raises(RecipeError, match=f"'{lacking}' is missing on 2 of 2 rows"):
        rule.over(batch, 0)(batch, {"logprobs": torch.zeros(2, 2)})


def test_a_group_of_one_and_a_group_without_a_loss_token_are_consistent(compose):
    batch = compose.batch([[1], [0], [0]], {"old_logprobs": [[-1.0]] * 3})
    pairs = (1.0, 2.0, 2.0)
    rows = [
        row.with_signals(pair=pair, reward=1.0) for row, pair in zip(batch.rows, pairs, strict=True)
    ]
    batch = type(batch)(tuple(rows))
    leaf = torch.full((3, 1), -2.0, requires_grad=True)
    value = Consistency().over(batch, 0)(batch, {"logprobs": leaf})["consistency"]
    assert float(value.detach()) == 0.0
    assert torch.autograd.grad(value, leaf)[0].abs().sum() == 0
