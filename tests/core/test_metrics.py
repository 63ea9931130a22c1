"""What a step's updates add up to."""

from didact.core.metrics import Spent, record


def update(rows: float, idle: float, **values: float) -> dict[str, float]:
    return {"rows": rows, "idle_rows": idle, "tokens": 3.0, **values}


def test_an_update_that_ran_nothing_forward_does_not_dilute_the_averages():
    for order in ((0, 1), (1, 0)):
        updates = [update(4, 4, loss=0.0), update(4, 0, loss=2.0, entropy=1.0)]
        metrics: dict[str, float] = {}
        for at in order:
            record(metrics, "rl", updates[at])
        assert metrics["rl/loss"] == 2.0
        assert metrics["rl/entropy"] == 1.0
        assert metrics["rl/rows"] == 8.0
        assert metrics["rl/updates"] == 2.0


def test_values_are_averaged_and_counts_summed_over_updates():
    metrics: dict[str, float] = {}
    for loss in (1.0, 2.0, 6.0):
        record(metrics, "rl", update(4, 1, loss=loss))
    assert metrics["rl/loss"] == 3.0
    assert metrics["rl/tokens"] == 9.0


def test_what_was_spent_counts_demonstrations_of_every_phase():
    spent = Spent()
    spent.add({"seconds/step": 2.0, "tokens/generated": 10.0, "rl/tokens": 5.0, "sft/tokens": 1.0,
               "rl/used/demonstration": 2.0, "sft/used/demonstration": 3.0})  # fmt: skip
    assert spent.totals == {
        "steps": 1.0, "generated_tokens": 10.0, "trained_tokens": 6.0, "demonstrations": 5.0,
        "seconds": 2.0,
    }  # fmt: skip
