"""A repeated game against oneself, and what advantage alignment makes of it."""

import pytest
import torch

from didact.algorithms.alignment import (
    advantage_alignment,
    aligned_advantages,
    round_advantages,
)
from didact.feedback.games import RepeatedGame


def by_seed(context, seed):
    return "CD"[seed % 2]


def test_a_game_pays_both_players_and_tells_each_the_others_move(tools):
    run = tools.make_run(by_seed)
    game = RepeatedGame(n=3, rounds=2, payoffs=(3.0, 0.0, 5.0, 1.0), told="[{move}]")
    (players,) = game.extend([tools.group("p", "q?")], run)
    assert [player.signals["seat"] for player in players] == [0.0, 1.0] * 3
    seen = set()
    for one, other in zip(players[::2], players[1::2], strict=True):
        moves = one.text[0] + other.text[0], one.text[-1] + other.text[-1]
        assert one.text[1:4] == f"[{other.text[0]}]" and other.text[1:4] == f"[{one.text[0]}]"
        pay = {"CC": 3.0, "CD": 0.0, "DC": 5.0, "DD": 1.0}
        ends = one.columns["round_rewards"][one.trainable].nonzero()
        wanted = [pay[move] for move in moves]
        assert [v for v in one.columns["round_rewards"].tolist() if v] == [v for v in wanted if v]
        assert torch.equal(one.columns["round_rewards"], other.columns["other_rewards"])
        assert torch.equal(one.columns["other_rewards"], other.columns["round_rewards"])
        assert len(ends) <= 2
        assert [int(flag) for flag in one.trainable] == [1, 1, 0, 0, 0, 1, 1]  # letter and end
        seen |= set(moves)
    assert len(seen) > 1  # the players have seeds of their own


def test_a_message_without_a_move_counts_as_defection(tools):
    run = tools.make_run(lambda context, seed: "hm")
    (players,) = RepeatedGame(n=1, rounds=1).extend([tools.group("p", "q?")], run)
    assert [player.columns["round_rewards"].sum().item() for player in players] == pytest.approx(
        [0.2, 0.2]
    )
    assert run.metrics["game/unclear"] == 2.0
    assert run.metrics["game/cooperated"] == 0.0


def test_the_first_move_that_a_message_names_counts(tools):
    run = tools.make_run(lambda context, seed: "not D, C")
    (players,) = RepeatedGame(n=1, rounds=1).extend([tools.group("p", "q?")], run)
    assert players[0].columns["round_rewards"].sum().item() == pytest.approx(0.2)


def test_every_token_of_a_message_gets_the_aligned_advantage_of_its_round():
    """Two games of two rounds, seats apart; messages of two tokens and of one, a reply between."""
    mask = torch.tensor([[1, 1, 0, 1]] * 4).bool()
    rounds = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.2, 1.0], [0.4, 0.3]], dtype=torch.float64)
    others = rounds[[1, 0, 3, 2]]

    def placed(numbers):
        column = torch.zeros(4, 4, dtype=torch.float64)
        column[:, [1, 3]] = numbers
        return column

    groups, seat = torch.zeros(4, dtype=torch.long), torch.tensor([0.0, 1.0, 0.0, 1.0])
    found = advantage_alignment(
        groups, mask, seat, placed(rounds), placed(others), beta=0.5, gamma=0.9
    )["advantages"]
    seats = seat.long()
    own, other = (round_advantages(r, seats, gamma=0.9) for r in (rounds, others))
    credits = aligned_advantages(own, other, beta=0.5, gamma=0.9)
    expected = torch.stack(
        [credits[:, 0], credits[:, 0], torch.zeros(4, dtype=torch.float64), credits[:, 1]], 1
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_game_that_ended_early_counts_nothing_for_the_rounds_it_lacks():
    mask = torch.tensor([[1, 0, 1], [1, 0, 0]]).bool()
    column = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    none, seat = torch.zeros(2, dtype=torch.long), torch.zeros(2)
    found = advantage_alignment(none, mask, seat, column, column, beta=0.0, gamma=1.0)
    assert found["advantages"].tolist() == [[1.0, 0.0, 1.0], [-1.0, 0.0, 0.0]]
