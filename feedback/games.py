"""A repeated game of two players, both of whom are the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from didact.core.protocols import Names, Run
from didact.core.ranges import Count
from didact.core.seeds import seed_of
from didact.core.types import Group, Request, Trajectory
from didact.feedback.policy import ask, said, sampling_of, seeds_of, started, told

Move = Literal["cooperate", "defect"]
SEATS = (0, 1)


@dataclass(frozen=True)
class RepeatedGame:
    """Plays a symmetric game of two moves against itself; each game gives a trajectory per player.

    In every round both players, who see the prompt and what was said so far, write a message; then
    each is told the other's move. Iterated prisoner's dilemma by default, the first game of
    advantage alignment (dereckpiche/AdAlignLLM @ e0ea9851). Column `round_rewards`: a player's
    payoff at the last token of its message; `other_rewards`: the other player's. Signal `seat`: 0
    or 1. Counted in `run.metrics`: `game/cooperated`, messages that cooperate, and `game/unclear`,
    those with neither move, which count as defection.

    Attributes:
        n: games for a prompt.
        rounds: of a game.
        round_tokens: longest message.
        cooperate, defect: what a message contains to say so; the first of them counts.
        payoffs: for (cooperate, cooperate), (cooperate, defect), (defect, cooperate) and (defect,
            defect), the player's own move first. The release divides 3, 0, 5 and 1 by 5.
        told: what a player is told after a round but the last; `{move}` is the other's move.
    """

    n: Count = 4
    rounds: Count = 5
    round_tokens: Count = 8
    cooperate: str = "C"
    defect: str = "D"
    payoffs: tuple[float, float, float, float] = (0.6, 0.0, 1.0, 0.2)
    told: Annotated[str, Field(min_length=1)] = "\nThey said {move}.\n"
    players: ClassVar[int] = len(SEATS)

    @property
    def adds(self) -> Names:
        return frozenset({"members", "behavior_logprobs", "seat", "round_rewards", "other_rewards"})

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]:
        prompts = [group.prompt for group in groups for _ in range(self.n) for _ in SEATS]
        players = [started(prompt, "policy") for prompt in prompts]
        seeds = seeds_of(run, prompts, "game")
        ends: list[list[int]] = [[] for _ in players]
        moves: list[list[Move]] = [[] for _ in players]
        for number in range(self.rounds):
            players = self._spoken(players, seeds, number, run)
            for at, player in enumerate(players):
                ends[at].append(len(player.tokens) - 1)
                moves[at].append(self._move(player.text, run))
            if number + 1 < self.rounds:
                players = [
                    self._hears(player, moves[at ^ 1][-1], run) for at, player in enumerate(players)
                ]
        done = [
            self._paid(player, ends[at], moves[at], moves[at ^ 1], at % 2, run)
            for at, player in enumerate(players)
        ]
        size = 2 * self.n
        return [done[at * size : (at + 1) * size] for at in range(len(groups))]

    def _spoken(
        self, players: Sequence[Trajectory], seeds: Sequence[int], number: int, run: Run
    ) -> list[Trajectory]:
        requests = [
            Request(torch.cat([player.prompt.tokens, player.tokens]), seed_of(seed, number))
            for player, seed in zip(players, seeds, strict=True)
        ]
        samples = ask(run, "policy", requests, sampling_of(run, max_tokens=self.round_tokens))
        return said(players, samples, run)

    def _move(self, text: str, run: Run) -> Move:
        places = {"cooperate": text.find(self.cooperate), "defect": text.find(self.defect)}
        found = {place: move for move, place in places.items() if place >= 0}
        _count(run, "unclear", not found)
        move: Move = "cooperate" if found and found[min(found)] == "cooperate" else "defect"
        _count(run, "cooperated", move == "cooperate")
        return move

    def _hears(self, player: Trajectory, move: Move, run: Run) -> Trajectory:
        word = self.cooperate if move == "cooperate" else self.defect
        tokens = run.renderer.response(self.told.format(move=word), end=False)
        return told(player, tokens)

    def _paid(
        self,
        player: Trajectory,
        ends: Sequence[int],
        own: Sequence[Move],
        other: Sequence[Move],
        seat: int,
        run: Run,
    ) -> Trajectory:
        columns = {}
        for name, mine, theirs in (("round", own, other), ("other", other, own)):
            column = torch.zeros(len(player.tokens))
            column[list(ends)] = torch.tensor(
                [self._payoff(a, b) for a, b in zip(mine, theirs, strict=True)]
            )
            columns[f"{name}_rewards"] = column
        whole = replace(player, text=run.renderer.text(player.tokens))
        return whole.with_columns(**columns).with_signals(seat=float(seat))

    def _payoff(self, own: Move, other: Move) -> float:
        return self.payoffs[2 * (own == "defect") + (other == "defect")]


def _count(run: Run, what: str, happened: bool) -> None:
    name = f"game/{what}"
    run.metrics[name] = run.metrics.get(name, 0.0) + happened
