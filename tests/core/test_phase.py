"""What a phase makes of its rows: mini-batches, passes and their order."""

from types import SimpleNamespace

import pytest
import torch

from didact.core.phase import Phase, Trigger
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.where import Where
from didact.feedback.buffers import Queue

PROMPT = Prompt("p", torch.tensor([1]), Problem("p", "p"))
ROWS = 12


def row(number: float) -> Trajectory:
    mask = torch.ones(1, dtype=torch.bool)
    signals = {"number": number, "pair": float(number // 2)}
    return Trajectory(PROMPT, torch.tensor([3]), mask, "policy", signals=signals)


def passes(step: int = 0, seed: int = 0, name: str = "rl", shuffle: bool = True):
    """The numbers of the rows of every mini-batch, a list for each of three passes."""
    rule = SimpleNamespace(needs=frozenset(), ahead=frozenset())
    settings = {"batch_size": 4, "epochs": 3, "shuffle": shuffle}
    phase = Phase(name, Where(), Queue(), Trigger(), rule, **settings)
    policy = SimpleNamespace(version=0)
    run = SimpleNamespace(seed=seed, step=step, metrics={}, generators={"policy": policy})
    phase.offer([row(float(at)) for at in range(ROWS)], run)
    batches = [[one.signals["number"] for one in batch.rows] for batch in phase.batches(run)]
    return [batches[at : at + 3] for at in range(0, len(batches), 3)]


def test_rows_that_a_full_pool_lets_go_are_counted():
    phase = Phase("rl", Where(), Queue(5), Trigger(), SimpleNamespace())
    run = SimpleNamespace(step=0, metrics={})
    phase.offer([row(1.0)] * 5, run)
    assert run.metrics == {}
    phase.offer([row(2.0)] * 7, run)
    assert run.metrics == {"rl/pool_dropped": 7.0}


def test_without_shuffling_every_pass_is_in_the_order_of_the_pool():
    assert passes(shuffle=False) == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]] * 3


def test_a_shuffled_pass_has_every_row_once_and_keeps_pairs_together():
    made = passes()
    for one in made:
        assert sorted(number for batch in one for number in batch) == list(range(ROWS))
        for batch in one:
            assert sorted({number // 2 for number in batch}) == sorted(n // 2 for n in batch[::2])
    assert len({str(one) for one in made}) == 3


def test_the_order_depends_on_seed_step_and_phase_alone():
    assert passes() == passes()
    others = passes(seed=1), passes(step=1), passes(name="sft")
    assert all(other != passes() for other in others)


class Counting:
    """FAKE reader: notes how many rows it was given, and writes zeros."""

    def __init__(self):
        self.seen = []

    def freeze(self, rows, columns):
        self.seen.append((len(rows), sorted(columns)))
        return [one.with_columns(**{name: torch.zeros(1) for name in columns}) for one in rows]


@pytest.mark.parametrize(
    ("ahead", "epochs", "seen"),
    [
        ((), 2, {"policy": [(3, ["old_logprobs"])], "ref": [(3, ["ref_logprobs"])]}),
        ((), 1, {"policy": [], "ref": [(3, ["ref_logprobs"])]}),
        (
            ("old_logprobs",),
            1,
            {"policy": [(ROWS, ["old_logprobs"])], "ref": [(3, ["ref_logprobs"])]},
        ),
    ],
)
def test_rows_on_which_the_loss_vanishes_are_read_only_if_the_rule_looks_at_all(
    ahead, epochs, seen
):
    rule = SimpleNamespace(
        needs=frozenset({"logprobs", "old_logprobs", "ref_logprobs"}),
        ahead=frozenset(ahead),
        idle=lambda batch: [one.signals["number"] % 4 != 0 for one in batch.rows],
    )
    phase = Phase("rl", Where(), Queue(), Trigger(), rule, epochs=epochs)
    policy, ref = Counting(), Counting()
    run = SimpleNamespace(
        seed=0,
        step=0,
        metrics={},
        generators={"policy": SimpleNamespace(version=0)},
        learners={"policy": policy},
        frozen={"ref": ref},
    )
    phase.offer([row(float(at)) for at in range(ROWS)], run)
    for batch in phase.batches(run):
        assert [one.signals["number"] for one in batch.rows] == list(range(ROWS))
        assert ["ref_logprobs" in one.columns for one in batch.rows] == [
            at % 4 == 0 for at in range(ROWS)
        ]
    assert {"policy": policy.seen, "ref": ref.seen} == seen
