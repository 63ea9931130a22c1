"""Losses, weights and whole rules: one that breaks a promise is found out, by that promise."""

from dataclasses import dataclass

import pytest
import torch
from promises import broken, held

from didact import vanishes_with, whole_mini_batch
from didact.testing import Broken


def nll(logprobs):
    """-log p."""
    return -logprobs


def test_a_sound_loss_keeps_every_promise():
    held("loss", nll)


def test_a_part_without_a_docstring_is_found_out():
    def bare(logprobs):
        return -logprobs

    with pytest.raises(Broken, match="no docstring"):
        held("loss", bare)


def reserved(logprobs, *, where: int = 1):
    return -logprobs


def untyped(logprobs, *, gamma=1.0):
    return -logprobs


def summed(logprobs):
    return -logprobs.sum(1)


def single(logprobs):
    return -logprobs.float()


def meant_as_setting(logprobs, clip=0.2):
    return -logprobs * clip


def across_rows(logprobs):
    return -(logprobs - logprobs.mean(0))


def over_padding(logprobs):
    return -logprobs / logprobs.shape[1]


def in_order(logprobs):
    return -logprobs * torch.arange(1, len(logprobs) + 1)[:, None]


def detached(logprobs):
    return -logprobs.detach() * 2


def no_model(advantages, old_logprobs):
    return advantages[:, None] * old_logprobs


def random_loss(logprobs):
    return -logprobs * torch.rand(())


def in_place(logprobs, old_logprobs):
    old_logprobs.mul_(2)
    return -logprobs + old_logprobs * 0


def exploding(logprobs, old_logprobs):
    return -torch.exp(4 * (logprobs - old_logprobs))


def nothing_left(logprobs, advantages):
    return -logprobs * advantages[:, None] / advantages.abs().max()


@vanishes_with("advantages")
def does_not_vanish(logprobs, advantages):
    return -logprobs * (1 + advantages[:, None])


def raises(logprobs):
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (reserved, "setting called 'where'"),
        (untyped, "settings without a type: gamma"),
        (meant_as_setting, r"clip has a default, but no '\*' before it makes it a setting"),
        (summed, r"returned \(6,\), not \(6, 7\)"),
        (single, "returned torch.float32 for inputs in torch.float64"),
        (across_rows, "in micro-batches .* looks across rows"),
        (over_padding, "in micro-batches"),
        (in_order, "with the rows in another order"),
        (detached, "no gradient reaches the model"),
        (no_model, "reads no column of the model"),
        (random_loss, "draws from the global generator"),
        (in_place, "changes its input old_logprobs in place"),
        (exploding, "not finite with a log-ratio of -?30 in float32|value is -?inf"),
        (nothing_left, "with every signal 0"),
        (does_not_vanish, "marked as vanishing with 'advantages', and does not"),
        (raises, "it raised KeyError: 'oops'"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_broken_loss_is_found_out(loss, said):
    broken("loss", loss, said)


def live_weight(logprobs):
    return logprobs.exp()


def ranked(old_logprobs):
    return (old_logprobs > old_logprobs.median()).to(old_logprobs.dtype)


def endless(old_logprobs):
    return torch.exp(-10 * old_logprobs)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (live_weight, "it has a gradient"),
        (ranked, "mark it with `whole_mini_batch`"),
        (endless, "log-probabilities are far apart"),
    ],
)
def test_a_broken_weight_is_found_out(weight, said):
    broken("weight", weight, said)


def test_a_weight_that_is_marked_may_look_at_the_whole_mini_batch():
    ranked.__doc__ = "Above the median."

    @whole_mini_batch
    def marked(old_logprobs, mask):
        """Above the mean of the tokens that count."""
        inside = old_logprobs[mask]
        middle = inside.mean() if len(inside) else 0.0
        return (old_logprobs > middle).to(old_logprobs.dtype)

    held("weight", marked)


@dataclass(frozen=True)
class Whole:
    """-log p over the loss tokens of the mini-batch, unless a subclass for a test spoils it."""

    needs = frozenset({"logprobs", "mask"})
    ahead = frozenset()

    def over(self, batch, step):
        count = batch.mask.sum()

        def value(part, live):
            return {"nll": -torch.where(part.mask, live["logprobs"], 0.0).sum() / count}

        return value

    def idle(self, batch):
        return [False] * len(batch)


class OfTheMicroBatch(Whole):
    """Divides by what it sees."""

    def over(self, batch, step):
        return lambda part, live: Whole.over(self, part, step)(part, live)


class OverPadding(Whole):
    """Forgets the mask."""

    def over(self, batch, step):
        return lambda part, live: {"nll": -live["logprobs"].sum()}


class OfNothing(Whole):
    """Names what it reads in a list."""

    needs = ["logprobs"]


class AllAtOnce(Whole):
    """One answer for all rows."""

    def idle(self, batch):
        return False


def test_a_broken_rule_is_found_out():
    held("rule", Whole)
    broken("rule", OfTheMicroBatch, r"in micro-batches .*; over\(\) fixes denominators")
    broken("rule", OverPadding, "with NaN outside of the mask")
    broken("rule", OfNothing, r"'needs' is \['logprobs'\], not a frozenset of names")
    broken("rule", AllAtOnce, "'bool' object is not iterable")
