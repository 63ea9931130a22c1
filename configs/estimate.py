"""`didact compare --dry-run`: the cells of a comparison, and what is left of each will cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from didact.configs.assemble import assemble
from didact.configs.cells import State, fill_match, spent, state_of
from didact.configs.comparison import Cell
from didact.configs.counts import of_recipe
from didact.configs.load import check
from didact.core.folder import RunFolder
from didact.plugins.manager import load

WORDS: dict[State, str] = {
    "new": "to run",
    "begun": "to continue",
    "changed": "changed, to run",
    "done": "done",
}


@dataclass(frozen=True)
class Cost:
    """What is left of a cell.

    Attributes:
        work: steps, prompts and answers, in words.
        seconds: of training, from the pace of the method's runs so far; None if it has none.
        measured: the seeds that the pace was measured in.
    """

    work: str
    seconds: float | None
    measured: tuple[str, ...]


def estimate(todo: Sequence[Cell]) -> Iterator[str]:
    """One line a cell: whether it is done, what is left to do, and about how long; then the sum."""
    left: list[Cost] = []
    for cell in todo:
        known = fill_match(cell, [])
        state = state_of(cell) if known else "new"
        cost = cost_of(cell, state, exact=known)
        left += [] if state == "done" else [cost]
        match = f", as many {cell.match.axis} as {cell.match.of}" if cell.match else ""
        yield f"{cell.name}: {WORDS[state]}: {cost.work}{match}{_time(cost, state)}"
    yield _sum(left, len(todo))


def cost_of(cell: Cell, state: State, *, exact: bool) -> Cost:
    """What is left of a cell; not exact: its budget will be known when another cell has ended."""
    registry = load()
    recipe = check(cell.document, registry)
    most = of_recipe(recipe, assemble(recipe, registry, cell.document))
    states = cell.folder.states() if state == "begun" else []
    steps = recipe.steps - (states[-1][0] if states else 0)
    bounded = not exact or recipe.budget.model_dump(exclude_none=True)
    answers = f"{most.members} {'trajectory' if most.members == 1 else 'trajectories'}"
    prompts = most.groups or "some"
    work = (
        f"{'at most ' if bounded else ''}{steps} steps x {prompts} prompts x {answers} "
        f"of at most {recipe.sampling.max_tokens} tokens"
    )
    paces = {name: value for name, value in _paces(cell) if value is not None}
    if not paces:
        return Cost(work, None, ())
    return Cost(work, steps * sum(paces.values()) / len(paces), tuple(paces))


def _paces(cell: Cell) -> Iterator[tuple[str, float | None]]:
    """Seconds a step in each run of the cell's method, finished or not, by seed."""
    for path in sorted(cell.folder.path.parent.glob("*")):
        folder = RunFolder(path)
        if not path.name.isdigit() or not folder.metrics.exists():
            continue
        seconds, steps = (spent(folder, axis, []) for axis in ("seconds", "steps"))
        yield path.name, seconds / steps if seconds is not None and steps else None


def _time(cost: Cost, state: State) -> str:
    if state == "done":
        return ""
    if cost.seconds is None:
        return "; no run to measure the time by"
    seeds = f"seed{'s' if len(cost.measured) > 1 else ''} {', '.join(cost.measured)}"
    return f"; about {_clock(cost.seconds)}, as measured in {seeds}"


def _sum(left: Sequence[Cost], total: int) -> str:
    known = [cost.seconds for cost in left if cost.seconds is not None]
    text = f"{total} cells, {len(left)} of them to run"
    if known:
        text += f"; about {_clock(sum(known))} of training, one after another, evaluations left out"
    if len(known) < len(left):
        text += f"; no time is known of {len(left) - len(known)}"
    return text


def _clock(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
