"""What every advantage estimator promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from didact.core.bind import adds_of, columns_of
from didact.plugins.testing.part import Example, Part, demand
from didact.plugins.testing.state import reloaded

COLUMNS = frozenset(
    {
        *("values", "entropy", "advantages_per_token", "prefix"),
        *("step_end", "step_value", "prover_value", "process", "progress", "grounding", "decoded"),
        *("ranks", "round_rewards", "other_rewards"),
    }
)
SIZES = (4, 3, 1, 2)
LENGTHS = (3, 5, 2, 4, 1, 5, 3, 2, 4, 5)


@dataclass(frozen=True)
class Step:
    """The trajectories of a step as an estimator reads them.

    Attributes:
        values: by name: [N], [N, T], or [N, K] and [K] for the parts of the reward.
        groups: int64 [N].
    """

    values: Mapping[str, Tensor]
    groups: Tensor

    def arguments(self, estimator: Any) -> dict[str, Tensor]:
        """What a call of this estimator takes."""
        return {name: self.values[name] for name in columns_of(estimator)}

    def taken(self, order: Sequence[int]) -> Step:
        """The same step with its trajectories in another order; groups stay contiguous."""
        at = torch.tensor(order)
        moved = {n: v if n == "reward_weights" else v[at] for n, v in self.values.items()}
        old = moved["groups"].tolist()
        names = {name: number for number, name in enumerate(dict.fromkeys(old))}
        moved["groups"] = torch.tensor([names[name] for name in old])
        return Step(moved, moved["groups"])


def step(
    estimator: Any,
    example: Example,
    sizes: Sequence[int] = SIZES,
    reward: float | None = None,
    lengths_of: Sequence[int] = LENGTHS,
) -> Step:
    """Random rewards in groups of these sizes, or one reward for all; masked values are 0.

    Responses have these lengths, in turn.
    """
    count = sum(sizes)
    lengths = torch.tensor((list(lengths_of) * count)[:count])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    draw = torch.Generator().manual_seed(1)
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    values: dict[str, Tensor] = {}
    for name in sorted(columns_of(estimator)):
        shape = mask.shape if _is_column(name, example) else mask.shape[:1]
        value = torch.rand(shape, generator=draw, dtype=torch.float64)
        low, high = example.between.get(name, (0.0, 1.0))
        value = low + (high - low) * value
        if name in example.among:
            choice = torch.randint(len(example.among[name]), shape, generator=draw)
            value = torch.tensor(example.among[name], dtype=torch.float64)[choice]
        elif name.endswith("logprobs"):
            value = -2 * value - 0.05
        elif name in ("success", "on_policy"):
            value = (value > 0.4).double()
        values[name] = torch.where(mask, value, 0.0) if value.dim() == 2 else value
    values |= {"groups": groups, "mask": mask, "lengths": lengths}
    values["rewards"] = torch.randint(0, 3, (count,), generator=draw).double() / 2
    if reward is not None:
        values["rewards"] = torch.full((count,), reward, dtype=torch.float64)
    values["reward_parts"] = torch.stack([values["rewards"], values["rewards"].flip(0)], 1)
    values["reward_weights"] = torch.tensor([1.0, 0.5], dtype=torch.float64)
    return Step(values, groups)


def _is_column(name: str, example: Example) -> bool:
    if name in example.rows:
        return False
    return name in COLUMNS or name.endswith(("logprobs", "_values", "collision"))


def results(estimator: Any, given: Step) -> dict[str, Tensor]:
    """What an estimator returns, by name."""
    made = estimator(**given.arguments(estimator))
    return {"advantages": made} if isinstance(made, Tensor) else dict(made)


def advantage_returns_what_it_declares(part: Part) -> None:
    """The names of `adds`, each a finite float [N] or [N, T]."""
    estimator = part.make()
    given = step(estimator, part.example)
    found = results(estimator, given)
    declared = adds_of(estimator)
    demand(set(found) == declared, f"returned {sorted(found)}, declares {sorted(declared)}")
    _sound(found, given, "")


def advantage_does_not_depend_on_the_order_of_trajectories(part: Part) -> None:
    """Members of a group, or whole groups, in another order: the same numbers."""
    given = step(part.make(), part.example)
    whole = results(part.make(), given)
    for order in ([3, 1, 0, 2, 6, 4, 5, 7, 9, 8], [8, 9, 7, 4, 5, 6, 0, 1, 2, 3]):
        moved = results(part.make(), given.taken(order))
        for name, value in moved.items():
            gap = float((value - whole[name][torch.tensor(order)]).abs().max())
            demand(gap < 1e-9, f"'{name}' changes by {gap:.3g} with the order of trajectories")


def advantage_is_finite_on_degenerate_input(part: Part) -> None:
    """One trajectory, groups of one, all rewards equal, nothing that carries loss."""
    for reward in (0.0, 1.0, -3.5):
        given = step(part.make(), part.example, reward=reward)
        _sound(results(part.make(), given), given, f" when every reward is {reward:g}")
    for sizes in ((1,), (1, 1, 1), (2,)):
        given = step(part.make(), part.example, sizes)
        _sound(results(part.make(), given), given, f" with groups of {list(sizes)}")
    given = step(part.make(), part.example)
    silent = given.values["mask"].clone()
    silent[1] = False
    lengths = torch.where(silent.any(1), given.values["lengths"], 0)
    values = {
        n: torch.where(silent, v, 0.0) if v.shape == silent.shape else v
        for n, v in given.values.items()
    }
    given = Step({**values, "mask": silent, "lengths": lengths}, given.groups)
    _sound(results(part.make(), given), given, " with a trajectory none of whose tokens counts")


def advantage_is_pure(part: Part) -> None:
    """Two fresh ones give the same; inputs and the global random state stay as they were."""
    given = step(part.make(), part.example)
    before = {name: value.clone() for name, value in given.values.items()}
    state = torch.get_rng_state()
    first, second = results(part.make(), given), results(part.make(), given)
    demand(bool(torch.equal(state, torch.get_rng_state())), "it draws from the global generator")
    alike = all(torch.equal(first[name], second[name]) for name in first)
    demand(alike, "called twice on the same input it gives two results; take `draws` for chance")
    changed = sorted(n for n, v in given.values.items() if not torch.equal(v, before[n]))
    demand(not changed, f"it changes its input {', '.join(changed)} in place")


def advantage_survives_a_checkpoint(part: Part) -> None:
    """With a state: saved, loaded into a fresh one, it goes on as before; without, it has none."""
    old = part.make()
    given = step(old, part.example)
    for _ in range(3):
        results(old, given)
    new = reloaded(old, part.make()) if hasattr(old, "state_dict") else part.make()
    first, second = results(old, given), results(new, given)
    alike = all(torch.equal(first[name], second[name]) for name in first)
    when = "after load_state_dict" if hasattr(old, "state_dict") else "resumed without a state_dict"
    demand(alike, f"{when} it goes on differently")


def _sound(found: Mapping[str, Tensor], given: Step, when: str) -> None:
    mask = given.values["mask"]
    for name, value in found.items():
        demand(isinstance(value, Tensor), f"'{name}' is no tensor{when}")
        shapes = (tuple(mask.shape[:1]), tuple(mask.shape))
        shape = tuple(value.shape)
        demand(shape in shapes, f"'{name}' has shape {shape}{when}, not one of {shapes}")
        demand(value.dtype.is_floating_point, f"'{name}' is {value.dtype}{when}, not a float")
        used = value[mask] if value.dim() == 2 else value
        demand(bool(used.isfinite().all()), f"'{name}' is not finite{when}")
