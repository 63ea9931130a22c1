"""What every reward, critic and environment promises."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from didact.core.observe import Observer
from didact.core.protocols import Failed
from didact.core.types import Feedback, Trajectory
from didact.plugins.testing.data import (
    PROBLEMS,
    RESPONSES,
    Characters,
    make_run,
    scored,
    trajectory,
)
from didact.plugins.testing.part import Part, demand
from didact.plugins.testing.state import picture, sent

LONG = "7 and so on. " * 2000


def samples(part: Part) -> list[Trajectory]:
    """Responses, right, wrong, empty and strange, to the example's problems."""
    problems = part.example.problems or PROBLEMS
    texts = [*part.example.responses, *RESPONSES]
    made = []
    for problem in problems:
        prompt = Characters().prompt(problem)
        own = [*texts, *problem.demonstrations]
        made += [scored(trajectory(prompt, t), float(k % 2)) for k, t in enumerate(own)]
    made[0] = replace(made[0], truncated=True)
    return made


def reward_is_one_number_or_failure_per_trajectory(part: Part) -> None:
    """As many values as trajectories, each finite or `Failed`; no trajectories, no values."""
    reward, rows = part.make(), samples(part)
    before = picture(rows)
    given = reward(rows)
    demand(picture(rows) == before, "it changes the trajectories it is given, or their order")
    demand(not isinstance(given, Mapping | Set), f"returned a {type(given).__name__}, no sequence")
    values = list(given)
    demand(len(values) == len(rows), f"{len(values)} values for {len(rows)} trajectories")
    for value in values:
        good = isinstance(value, Failed) or (
            isinstance(value, int | float) and math.isfinite(value)
        )
        demand(good, f"returned {value!r}, neither a finite number nor Failed")
    if all(isinstance(value, Failed) for value in values):
        demand(False, f"all failed, the first: {values[0]}; give the example problems it can score")
    demand(list(reward([])) == [], "no trajectories gave values")


def reward_does_not_depend_on_its_company(part: Part) -> None:
    """Alone, in another order or on another rank a trajectory gets the same reward."""
    reward, rows = part.make(), samples(part)
    whole = list(reward(rows))
    if part.example.grouped:
        return
    alone = [value for row in rows for value in reward([row])]
    demand(
        _alike(alone, whole),
        "a trajectory scored alone gets another reward; if it compares "
        "the responses to a prompt, say so with Example(grouped=True)",
    )
    back = list(reward(rows[::-1]))[::-1]
    demand(_alike(back, whole), "in another order trajectories get other rewards")


def reward_is_repeatable_and_can_be_sent_to_a_worker(part: Part) -> None:
    """The same input gives the same values, here and after pickling."""
    reward, rows = part.make(), samples(part)
    first = list(reward(rows))
    demand(_alike(first, list(reward(rows))), "called twice on the same input it gives two results")
    demand(_alike(first, list(sent(reward)(rows))), "pickled and loaded it gives other rewards")


def reward_bears_degenerate_input(part: Part) -> None:
    """No answer, no text, 26,000 characters: a number or `Failed`, in time, and no exception."""
    reward = part.make()
    prompt = samples(part)[0].prompt
    bare = Characters().prompt(replace(prompt.problem, answer=None, metadata={}))
    for text in ("", LONG, "\x00\ud800", "{{{" * 500, "\\boxed{" * 500):
        rows = [scored(trajectory(which, "x"), 0.0) for which in (prompt, bare)]
        rows = [replace(row, text=text) for row in rows]
        values = list(reward(rows))
        demand(len(values) == 2, f"{len(values)} values for 2 trajectories")


def critic_says_something_about_each_trajectory(part: Part) -> None:
    """As many `Feedback` or `Failed` as trajectories; none for none; the same when repeated."""
    critic, rows = part.make(), samples(part)
    before = picture(rows)
    said = list(critic(rows, make_run()))
    demand(picture(rows) == before, "it changes the trajectories it is given, or their order")
    demand(len(said) == len(rows), f"{len(said)} critiques for {len(rows)} trajectories")
    odd = [one for one in said if not isinstance(one, Feedback | Failed)]
    demand(not odd, f"returned {odd[0] if odd else ''!r}, neither Feedback nor Failed")
    heard = [one for one in said if isinstance(one, Feedback)]
    demand(bool(heard), f"all failed, the first: {said[0]}; give the example problems it can judge")
    words = all(isinstance(one.text, str) and one.text and one.source for one in heard)
    demand(words, "a critique has no text, or does not say who gave it (source)")
    demand(list(critic([], make_run())) == [], "no trajectories gave critiques")
    demand(said == list(critic(rows, make_run())), "with the same seed it says two things")


def environment_answers_with_text_or_none(part: Part) -> None:
    """A str or None for any response, the same each time, here and after pickling."""
    environment = part.make()
    for row in samples(part):
        for turn in range(3):
            said = environment.reply(row.prompt, row.text, turn)
            good = said is None or isinstance(said, str)
            demand(good, f"replied {type(said).__name__}, neither str nor None")
            again = sent(environment).reply(row.prompt, row.text, turn)
            demand(said == again, "to the same response it replies two things")


def observer_listens_to_events_that_exist(part: Part) -> None:
    """Some `on_…` methods, each called and taking what `Observer` says; others are never called."""
    offered = {n: inspect.signature(m) for n, m in vars(Observer).items() if n.startswith("on_")}
    factory = part.entry.factory
    own = [name for name in dir(factory) if name.startswith("on_")]
    strange = sorted(set(own) - set(offered))
    demand(not strange, f"nobody calls {', '.join(strange)}; events are {', '.join(offered)}")
    demand(bool(own) or not inspect.isclass(factory), f"it has none of {', '.join(offered)}")
    for name in own:
        taken = [None] * len(offered[name].parameters)
        try:
            inspect.signature(getattr(factory, name)).bind(*taken)
        except TypeError as error:
            demand(False, f"{name}{offered[name]} cannot be called so: {error}")


def _alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Equal numbers, and failures in the same places."""
    return len(one) == len(other) and all(
        (isinstance(a, Failed) and isinstance(b, Failed)) or a == b
        for a, b in zip(one, other, strict=True)
    )
