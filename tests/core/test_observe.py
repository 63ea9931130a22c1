"""Observers do not come between each other."""

import pytest

from didact.core.observe import notify


class Clearing:
    def on_step(self, step, metrics):
        metrics.clear()
        raise OSError("no more room")


class Keeping:
    def on_step(self, step, metrics):
        self.seen = dict(metrics)


def test_one_that_clears_its_metrics_and_fails_leaves_the_others_theirs():
    keeping, metrics = Keeping(), {"loss": 1.0}
    with pytest.raises(OSError, match="no more room"):
        notify([Clearing(), keeping, object()], "on_step", 3, metrics)
    assert keeping.seen == metrics == {"loss": 1.0}
