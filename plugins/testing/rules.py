"""What every whole update rule promises."""

from __future__ import annotations

import math

from didact.core.learned import learned_of
from didact.core.protocols import UpdateRule
from didact.plugins.testing.part import Part, demand
from didact.plugins.testing.tensors import LENGTHS, World, outcome, same, world

PAIRS = ([0, 1], [2, 3], [4, 5])
"""Micro-batches that keep the rows of a pair together."""
ORDER = (4, 5, 1, 0, 2, 3)


def rule_says_what_it_reads(part: Part) -> None:
    """`needs` and `ahead` are sets of names, the second within the first; one bool for each row."""
    rule = part.make()
    for which in ("needs", "ahead"):
        names = getattr(rule, which)
        good = isinstance(names, frozenset) and all(isinstance(name, str) for name in names)
        demand(good, f"'{which}' is {names!r}, not a frozenset of names")
    extra = sorted(rule.ahead - rule.needs)
    demand(not extra, f"'ahead' has {', '.join(extra)}, which 'needs' has not")
    idle = list(rule.idle(_given(rule, part).batch))
    good = len(idle) == len(LENGTHS) and all(isinstance(one, bool) for one in idle)
    demand(good, f"idle() gave {idle!r}, not one bool for each of {len(LENGTHS)} rows")


def rule_does_not_depend_on_order_micro_batches_or_padding(part: Part) -> None:
    """Rows in another order, in parts, with NaN where no loss is: the same value and gradient."""
    rule = part.make()
    if learned_of(rule):
        return  # a scalar that is learned comes from the learner
    given = _given(rule, part)
    whole = outcome(rule, given)
    numbers = [whole.value, *whole.gradients.values()]
    demand(all(bool(n.isfinite().all()) for n in numbers), "value or gradient is not finite")
    reached = any(float(gradient.abs().sum()) > 0 for gradient in whole.gradients.values())
    demand(reached, "no gradient reaches the model")
    told = same(whole, outcome(rule, given, order=ORDER))
    demand(not told, f"with the rows in another order {told}")
    told = same(whole, outcome(rule, _given(rule, part, math.nan)))
    demand(not told, f"with NaN outside of the mask {told}")
    told = same(whole, outcome(rule, given, PAIRS))
    demand(not told, f"in micro-batches {told}; over() fixes denominators, of the whole mini-batch")


def _given(rule: UpdateRule, part: Part, garbage: float = 0.0) -> World:
    return world(rule, part.example, garbage=garbage, reads=rule.needs)
