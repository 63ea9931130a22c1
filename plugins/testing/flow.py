"""What every source, stage, sampler, buffer and task promises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from didact.core.codec import encode
from didact.core.errors import RecipeError
from didact.core.protocols import Names
from didact.core.score import Weighted
from didact.core.types import Group, Problem, Trajectory
from didact.plugins.testing.data import (
    PROBLEMS,
    Characters,
    Problems,
    groups,
    make_run,
    trajectory,
)
from didact.plugins.testing.part import Part, demand
from didact.plugins.testing.state import picture, reloaded, sent
from didact.rewards.each import each


class Shelf:
    """A buffer that holds one old trajectory for each problem, for sources that remember."""

    def __init__(self) -> None:
        self.items = [trajectory(Characters().prompt(p), "old", reward=1.0) for p in PROBLEMS]

    def add(self, trajectories: Any) -> None:
        """Keep them."""
        self.items += list(trajectories)

    def sample(self, count: int) -> Sequence[Trajectory]:
        """The first ones."""
        return self.items[:count]

    def matching(self, prompt: Any) -> Sequence[Trajectory]:
        """Those of a prompt."""
        return [item for item in self.items if item.prompt.id == prompt.id]

    def __len__(self) -> int:
        return len(self.items)

    def state_dict(self) -> dict[str, Any]:
        """Not needed here."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Not needed here."""


def source_gives_trajectories_for_each_group(part: Part) -> None:
    """One sequence for each group, in order, of whole trajectories; no groups, nothing."""
    source = part.make()
    given = groups()
    before = picture(given)
    found = source.extend(given, make_run(buffer=Shelf))
    demand(picture(given) == before, "it changed the groups it was given")
    demand(isinstance(found, Sequence), f"returned a {type(found).__name__}, not a sequence")
    demand(len(found) == len(given), f"{len(found)} sequences for {len(given)} groups")
    adds: Names = getattr(source, "adds", frozenset())
    demand(isinstance(adds, frozenset), f"'adds' is {adds!r}, not a frozenset of names")
    for group, members in zip(given, found, strict=True):
        for member in members:
            _whole(member, group.prompt.id)
            lacking = sorted(adds - {*member.signals, *member.columns, "members"})
            demand(not lacking, f"it declares that it adds {', '.join(lacking)}, and does not")
    made = sum(map(len, found))
    demand(made > 0, "it gave no trajectory at all; give it settings in its example")
    demand(len(source.extend([], make_run(buffer=Shelf))) == 0, "no groups gave trajectories")


def source_is_decided_by_the_seed(part: Part) -> None:
    """The same seed and step give the same tokens: alone, together, or spread over ranks."""
    given = groups()
    source = part.make()
    whole = _texts(source.extend(given, make_run(buffer=Shelf)))
    again = _texts(_as_resumed(source, part.make()).extend(given, make_run(buffer=Shelf)))
    demand(whole == again, "the same seed gave other trajectories")
    ranks = _texts(part.make().extend(given, make_run(buffer=Shelf, ranks=3)))
    demand(whole == ranks, "on three ranks it gave other trajectories")
    run, alone = make_run(buffer=Shelf), []
    for group in given:
        alone += _texts(part.make().extend([group], run))
    demand(whole == alone, "a group alone got other trajectories than among others")


def _texts(found: Sequence[Sequence[Trajectory]]) -> list[list[tuple[str, list[int]]]]:
    return [[(m.origin, m.tokens.tolist()) for m in members] for members in found]


def _whole(member: Trajectory, prompt: str) -> None:
    """What every trajectory must be, wherever it comes from."""
    demand(member.prompt.id == prompt, f"a trajectory of '{member.prompt.id}' came for '{prompt}'")
    demand(
        member.tokens.dtype == torch.int64 and member.tokens.dim() == 1, "tokens must be int64 [T]"
    )
    shaped = member.trainable.shape == member.tokens.shape and member.trainable.dtype == torch.bool
    demand(shaped, "trainable must be bool [T]")
    demand(bool(member.origin), "a trajectory must say its origin")
    for name, column in member.columns.items():
        good = column.shape == member.tokens.shape and column.dtype.is_floating_point
        demand(good, f"column '{name}' must be float [T]")
    encode([member])


def stage_turns_groups_into_groups(part: Part) -> None:
    """`needs` and `adds` are sets of names; what it adds is there; its input is left alone."""
    stage, given = _stage(part), groups()
    for which in ("needs", "adds"):
        names = getattr(stage, which)
        good = isinstance(names, frozenset) and all(isinstance(name, str) for name in names)
        demand(good, f"'{which}' is {names!r}, not a frozenset of names")
    before, known = picture(given), _names(given)
    found = stage(given, make_run(buffer=Shelf))
    demand(isinstance(found, Sequence), f"returned a {type(found).__name__}, not a sequence")
    demand(
        all(isinstance(group, Group) for group in found), "it returned something else than groups"
    )
    demand(picture(given) == before, "it changed the groups it was given")
    secret = sorted(_names(found) - known - stage.adds)
    demand(not secret, f"it adds {', '.join(secret)} and does not declare it in 'adds'")
    members = [member for group in found for member in group.leaving()]
    odd = sorted({n for m in members for n, v in m.signals.items() if not math.isfinite(v)})
    demand(not odd, f"signals that are no finite numbers: {', '.join(odd)}")
    for name in sorted(stage.adds - {"members", "feedback"}) if members else ():
        there = any(name in m.signals or name in m.columns for m in members)
        demand(there, f"it declares that it adds '{name}', and does not")


def _as_resumed(used: Any, fresh: Any) -> Any:
    """The used part, which must be as good as a fresh one, unless a checkpoint holds its state."""
    return fresh if hasattr(used, "state_dict") else used


def _names(given: Sequence[Group]) -> set[str]:
    """Signals and columns that groups and their members carry."""
    members = [member for group in given for member in group.leaving()]
    return {name for m in members for name in (*m.signals, *m.columns)}


def stage_is_repeatable_and_bears_nothing(part: Part) -> None:
    """Twice the same from the same run; no groups and groups without members are no error."""
    stage = _stage(part)
    first, second = (
        [_seen(group) for group in one(groups(), make_run(buffer=Shelf))]
        for one in (stage, _as_resumed(stage, _stage(part)))
    )
    demand(first == second, "with the same seed it gives two results")
    _stage(part)([], make_run(buffer=Shelf))
    empty = [replace(group, members=(), signals=group.signals) for group in groups()]
    _stage(part)(empty, make_run(buffer=Shelf))


def _stage(part: Part) -> Any:
    return part.make(rewards={"first": Weighted(each(_even))})


def _even(trajectory: Trajectory) -> float:
    """1 for a response of an even number of tokens."""
    return float(len(trajectory.tokens) % 2 == 0)


def _seen(group: Group) -> Any:
    return (
        group.prompt.id,
        dict(group.signals),
        [(m.origin, m.tokens.tolist(), dict(m.signals)) for m in group.members],
    )


def sampler_draws_problems_of_its_task(part: Part) -> None:
    """Some problems of the task at every step, whatever it was told before."""
    sampler = _sampler(part)
    known = {problem.id for problem in Problems()}
    for step in range(6):
        drawn = sampler.draw(step)
        demand(len(drawn) > 0, f"step {step} drew nothing")
        strange = [p.id for p in drawn if p.id not in known]
        demand(not strange, f"it drew '{strange[:1]}', which the task does not have")
        sampler.observe(groups(drawn) if step % 2 else [])


def sampler_is_decided_by_the_seed_and_its_state(part: Part) -> None:
    """Same seed, same draws; from a checkpoint it goes on as before."""
    one, two = _sampler(part), _sampler(part)
    demand(_draws(one) == _draws(two), "the same seed drew other problems")
    new = reloaded(one, _sampler(part))
    demand(_draws(one, 3) == _draws(new, 3), "after load_state_dict it draws other problems")


def sampler_bears_a_small_task(part: Part) -> None:
    """A task smaller than a draw is served, or refused with a `RecipeError`."""
    try:
        drawn = part.make(task=Problems(3), seed=1).draw(0)
    except RecipeError:
        return
    demand(len(drawn) > 0, "a task of three problems drew nothing")


def _sampler(part: Part) -> Any:
    return part.make(task=Problems(), seed=5)


def _draws(sampler: Any, first: int = 0) -> list[list[str]]:
    drawn = []
    for step in range(first, first + 3):
        problems = sampler.draw(step)
        drawn.append([problem.id for problem in problems])
        sampler.observe(groups(problems))
    return drawn


def buffer_gives_what_it_was_given(part: Part) -> None:
    """Never more than asked for or there, nothing twice in a draw, and nothing else."""
    buffer = part.make()
    demand(len(buffer) == 0 and not list(buffer.sample(4)), "a new buffer is not empty")
    rows = _rows()
    before = picture(rows)
    buffer.add([])
    buffer.add(iter(rows))
    demand(0 < len(buffer) <= len(rows), f"it holds {len(buffer)} of {len(rows)} trajectories")
    known = {id(row.tokens): row.prompt.id for row in rows}
    for prompt in {row.prompt.id: row.prompt for row in rows}.values():
        same = all(m.prompt.id == prompt.id for m in buffer.matching(prompt))
        demand(same, "matching() gave a trajectory of another prompt")
    demand(not list(buffer.sample(0)), "sample(0) gave something")
    for count in (2, 1000):
        held = len(buffer)
        drawn = list(buffer.sample(count))
        demand(len(drawn) <= min(count, held), f"sample({count}) of {held} gave {len(drawn)}")
        demand(len({id(row) for row in drawn}) == len(drawn), "a draw gave a trajectory twice")
        demand(all(id(row.tokens) in known for row in drawn), "it gave what it was never given")
    demand(picture(rows) == before, "it changes the trajectories it is given")


def buffer_survives_a_checkpoint(part: Part) -> None:
    """Same input, same draws; from a checkpoint it goes on as before."""
    old, twin = part.make(), part.make()
    for buffer in (old, twin):
        buffer.add(_rows())
    demand(_given(old) == _given(twin), "two of them, treated alike, gave two results")
    old.add(_rows(2))
    new = reloaded(old, part.make())
    demand(len(new) == len(old), f"of {len(old)} trajectories a checkpoint kept {len(new)}")
    demand(_given(old) == _given(new), "after load_state_dict it gives others")
    for buffer in (old, new):
        buffer.add(_rows(3))
    demand(_given(old, 50) == _given(new, 50), "after load_state_dict it goes on differently")


def _rows(seed: int = 1) -> list[Trajectory]:
    prompts = [Characters().prompt(problem) for problem in PROBLEMS]
    return [
        trajectory(prompts[at % len(prompts)], f"{seed}.{at}", reward=(at % 3) / 2, seed=seed)
        for at in range(12)
    ]


def _given(buffer: Any, count: int = 3) -> list[tuple[str, dict[str, float]]]:
    return [(row.text, dict(row.signals)) for row in buffer.sample(count)]


def task_is_an_indexable_collection(part: Part) -> None:
    """The same index is the same problem, always; ids are unique; everything is plain data."""
    one, two = part.make(), part.make()
    size = len(one)
    demand(size > 0, "it has no problems")
    count = min(size, 30)
    problems = [one[at] for at in range(count)]
    demand(all(isinstance(p, Problem) for p in problems), "an item is no Problem")
    again = [two[at] for at in reversed(range(count))][::-1]
    demand(problems == again, "the same index gave two problems")
    demand([one[0], one[size - 1]] == [two[0], two[size - 1]], "the ends are not repeatable")
    ids = {p.id for p in problems}
    contents = {(p.id, str(p.question)) for p in problems}
    demand(len(ids) == len(contents), "two problems have one id")
    demand(all(p.id and p.question for p in problems), "a problem lacks its id or its question")
    for problem in problems:
        encode([trajectory(Characters().prompt(problem), "x")])
    demand(sent(one)[0] == one[0], "pickled and loaded it has another first problem")
