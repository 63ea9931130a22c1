"""Samplers that learn from how it went: draws by failure, from easy to hard, and rests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor

from didact.core.errors import RecipeError
from didact.core.protocols import State, TaskSource
from didact.core.ranges import Count, Fraction, NonNegative, Share, Whole
from didact.core.seeds import seed_of
from didact.core.types import Group, Problem
from didact.feedback.permutation import permuted
from didact.feedback.samplers import check_prompts, check_size


def failure_shares(rates: Tensor, *, exponent: float = 1.0, floor: float = 0.0) -> Tensor:
    """(1 - success rate)^exponent + floor, normalised, [N]. Kimi k1.5, arXiv:2501.12599, 2.3.4.

    Uniform if all weights are 0.
    """
    weights = (1 - rates) ** exponent + floor
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / len(weights))


def easiest(difficulties: Tensor, share: float, least: int) -> Tensor:
    """Positions of the easiest `share` of the problems, at least `least`, in ascending order."""
    count = min(max(ceil(share * len(difficulties)), least), len(difficulties))
    order = difficulties.argsort(stable=True)
    return order[:count].sort().values


@dataclass
class Prioritized:
    """Problems by how often they fail, and from easy to hard: the sampling of Kimi k1.5.

    arXiv:2501.12599 section 2.3.4 keeps the success rate s of each problem and draws in proportion
    to 1 - s, after a curriculum from easy to hard by label. Reconstruction: no code was released;
    how s runs, the floor and the pace of the curriculum are ours. A draw is without replacement.
    It learns of prompts that a stage drops (`keep`, `fill`) as of all that were scored.

    Args:
        prompts: problems per draw.
        seed: of the draws.
        exponent: of 1 - s; 0 draws uniformly, so that only the curriculum is left.
        floor: added to every weight, so that solved problems are seen again at times.
        rate: how far a new success rate moves s; 1 keeps the latest.
        by: metadata key that is the difficulty, a number; every problem is read once for it. None:
            no curriculum.
        first: share of the problems, the easiest, that takes part at step 0.
        over: steps until all take part, by a straight line.
    """

    task: TaskSource = field(repr=False)
    prompts: Count = 16
    seed: int = 0
    exponent: NonNegative = 1.0
    floor: NonNegative = 0.01
    rate: Fraction = 0.5
    by: str | None = None
    first: Fraction = 0.25
    over: Count = 100
    _rates: dict[str, float] = field(default_factory=dict, init=False)
    _places: dict[str, int] = field(default_factory=dict, init=False)
    _draws: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_prompts(self.task, self.prompts)
        if not (0 < self.rate <= 1 and 0 < self.first <= 1 and self.floor >= 0 and self.over > 0):
            raise RecipeError(
                "sampler: 'rate' and 'first' are in (0, 1], 'floor' is at least 0 and 'over' at "
                f"least 1, not {self.rate}, {self.first}, {self.floor} and {self.over}."
            )
        self._hardness = self._labels()

    def draw(self, step: int) -> Sequence[Problem]:
        rates = torch.zeros(len(self.task), dtype=torch.float64)
        for name, rate in self._rates.items():
            rates[self._places[name]] = rate
        shares = failure_shares(rates, exponent=self.exponent, floor=self.floor)
        weights = shares.clamp(min=1e-300)  # without any, the same solved ones would fill each draw
        if self._hardness is not None:
            open_ = easiest(self._hardness, self._share(step), self.prompts)
            weights = torch.zeros_like(weights).index_copy(0, open_, weights[open_])
        noise = torch.Generator().manual_seed(seed_of("prioritized", self.seed, self._draws))
        self._draws += 1
        uniform = torch.rand(len(weights), generator=noise, dtype=torch.float64)
        keys = uniform.log() / weights  # the largest are a weighted draw (Efraimidis 2006)
        chosen = keys.topk(self.prompts).indices.tolist()
        problems = [self.task[at] for at in chosen]
        self._places |= {problem.id: at for at, problem in zip(chosen, problems, strict=True)}
        return problems

    def _share(self, step: int) -> float:
        return min(self.first + (1 - self.first) * step / self.over, 1.0)

    def observe(self, groups: Sequence[Group]) -> None:
        """Move the success rate of every problem that was answered."""
        for name, success in success_rates(groups, self._places):
            known = self._rates.get(name, success)
            self._rates[name] = known + self.rate * (success - known)

    def state_dict(self) -> State:
        return {
            "size": len(self.task),
            "draws": self._draws,
            "rates": dict(self._rates),
            "places": dict(self._places),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_size(self.task, state)
        self._draws = int(state["draws"])
        self._rates, self._places = dict(state["rates"]), dict(state["places"])

    def _labels(self) -> Tensor | None:
        if self.by is None:
            return None
        labels = [self.task[at].metadata.get(self.by) for at in range(len(self.task))]
        for at, label in enumerate(labels):
            if not isinstance(label, int | float):
                raise RecipeError(
                    f"sampler: '{self.by}' of problem '{self.task[at].id}' is {label!r}, not a "
                    f"number to order by."
                )
        return torch.tensor(labels, dtype=torch.float64)


@dataclass
class Filtered:
    """Every problem once per epoch, shuffled, but those that teach nothing sit some epochs out.

    A problem all of whose answers failed, or all of whose answers succeeded, has no advantage; the
    pass-rate filters of released recipes (DAPO drops such groups after sampling them, LLM360's
    Guru before training) are the limits of this with rests of 0 and without end. Composition: the
    length of a rest is ours. If too few problems are awake, further epochs begin until enough are.
    A problem whose turn comes twice in one draw (the end of an epoch and the beginning of the next)
    loses the second one.

    Args:
        prompts: problems per draw.
        seed: of the orders.
        failed: epochs that a problem rests after a success rate of at most `failed_at`.
        solved: epochs that it rests after a success rate of at least `solved_at`.
    """

    task: TaskSource = field(repr=False)
    prompts: Count = 16
    seed: int = 0
    failed: Whole = 0
    solved: Whole = 2
    failed_at: Share = 0.0
    solved_at: Share = 1.0
    _position: int = field(default=0, init=False)
    _places: dict[str, int] = field(default_factory=dict, init=False)
    _wakes: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_prompts(self.task, self.prompts)

    def draw(self, step: int) -> Sequence[Problem]:
        asleep = {self._places[name]: epoch for name, epoch in self._wakes.items()}
        chosen: list[int] = []
        while len(chosen) < self.prompts:
            epoch, place = divmod(self._position, len(self.task))
            if place == 0:
                later = [wakes for wakes in asleep.values() if wakes > epoch]
                if len(later) + len(chosen) == len(self.task):  # nothing to find before these wake
                    self._position = min(later) * len(self.task)
                    continue
            self._position += 1
            at = permuted(place, len(self.task), "filtered", self.seed, epoch)
            if at not in chosen and asleep.get(at, 0) <= epoch:
                chosen.append(at)
        problems = [self.task[at] for at in chosen]
        self._places |= {problem.id: at for at, problem in zip(chosen, problems, strict=True)}
        return problems

    def observe(self, groups: Sequence[Group]) -> None:
        """Send to rest what was solved, or failed, by all answers."""
        epoch = (self._position - 1) // len(self.task)
        for name, success in success_rates(groups, self._places):
            rest = self.solved if success >= self.solved_at else 0
            rest = self.failed if success <= self.failed_at else rest
            self._wakes.pop(name, None)
            if rest:
                self._wakes[name] = epoch + 1 + rest

    def state_dict(self) -> State:
        return {
            "size": len(self.task),
            "position": self._position,
            "places": dict(self._places),
            "wakes": dict(self._wakes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_size(self.task, state)
        self._position = int(state["position"])
        self._places, self._wakes = dict(state["places"]), dict(state["wakes"])


def success_rates(groups: Sequence[Group], drawn: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Prompt id and success rate of every drawn group that was answered, dropped ones too.

    Of a group that was scored, but none of whose answers that count could be, nothing is known.

    Raises:
        RecipeError: a group was never scored.
    """
    for group in groups:
        if group.prompt.id not in drawn:
            continue
        if "success_rate" in group.signals:
            yield group.prompt.id, group.signals["success_rate"]
        elif group.members and not any("reward" in member.signals for member in group.members):
            raise RecipeError(
                f"sampler: prompt '{group.prompt.id}' was answered, but has no 'success_rate'; the "
                f"recipe needs 'score'."
            )
