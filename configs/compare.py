"""`didact compare`: methods x seeds from one file, each cell a run folder, then one report."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from didact.configs.cells import fill_match, put_aside, state_of
from didact.configs.comparison import Cell, Comparison, cells, load_comparison, slug
from didact.configs.console import Console
from didact.configs.document import Document
from didact.configs.estimate import estimate
from didact.configs.pool import Ended, Pool, cores
from didact.core.errors import DidactError, RecipeError, RunError
from didact.core.folder import replacing


def run_comparison(
    source: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    jobs: int | None = None,
    seeds: Sequence[int] = (),
    dry_run: bool = False,
) -> Path | None:
    """Run a comparison's cells and build its report; continues where it was interrupted.

    A failed cell does not stop the others: the report shows it with its error.

    Args:
        jobs: cells that run at once; None: as many as there are GPUs for, or, without any, as there
            are cores for by the file's `cpus`.

    Returns:
        The report, or None for a dry run.

    Raises:
        RunError: cells failed. The others are done, and the report is there.
    """
    comparison = load_comparison(source)
    if len(set(seeds)) != len(seeds):
        raise RecipeError(f"seeds must differ, they are the repetitions: {list(seeds)}")
    if seeds:
        comparison = comparison.model_copy(update={"seeds": list(seeds)})
    todo = cells(comparison, out, only)
    ran = {cell.label for cell in todo}
    old = outdated(comparison, out, ran)
    for cell in todo:
        if cell.match and (cell.match.of, cell.seed) in old:
            raise RecipeError(
                f"{cell.name} is to match '{cell.match.of}', which has changed since it ran: "
                "name it with --only too."
            )
    console = Console()
    if dry_run:
        for line in estimate(todo):
            print(line)
        return None
    gpus = shared_gpus(todo)
    out.mkdir(parents=True, exist_ok=True)
    _record(comparison, source, out, old)
    own, cpus = at_once(comparison, gpus)
    pool = Pool(jobs or own, gpus, cpus)
    try:
        with pool:
            failed = run_cells(todo, pool, console)
    except KeyboardInterrupt:
        console.say("interrupted; the same command continues")
        raise
    finally:
        _record(comparison, source, out, outdated(comparison, out, ran), pool.most)
    from didact.core.report import compared, find_cells, print_summary, write_report

    said = "".join(f"failed: {name}: {reason}\n" for name, reason in failed.items())
    try:
        results = compared(find_cells([out]))
        report = write_report(results, out)
    except DidactError as error:
        if failed:
            raise RunError(f"{said}no report: {error}") from None
        raise
    print_summary(results)
    if failed:
        raise RunError(f"{said}{len(failed)} of {len(todo)} cells failed; report: {report}")
    return report


def outdated(comparison: Comparison, out: Path, ran: Collection[str]) -> list[tuple[str, int]]:
    """Method and seed of the runs that are in the folder, and so in the report, by another recipe
    than the file says now: only `ran` methods were asked for."""
    others = [k for k in comparison.methods if k not in ran and (out / "cells" / slug(k)).exists()]
    there = cells(comparison, out, others) if others else []
    for cell in there:
        fill_match(cell, [])
    return [(cell.label, cell.seed) for cell in there if state_of(cell) == "changed"]


def _record(
    comparison: Comparison, source: str, out: Path, old: Sequence[tuple[str, int]], most: int = 1
) -> None:
    """Write down what is compared, and that `most` cells ran at once, for the report."""
    file, before = out / "comparison.json", 1
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = int(json.loads(file.read_text(encoding="utf-8"))["at_once"])
    labels = list(comparison.methods)
    matches = {k: [m.match.axis, m.match.of] for k, m in comparison.methods.items() if m.match}
    record = {
        "title": comparison.title or source,
        "about": comparison.about,
        "baseline": comparison.baseline or labels[0],
        "labels": {label: slug(label) for label in labels},
        "seeds": comparison.seeds,
        "axis": comparison.axis,
        "matches": matches,
        "outdated": [f"{label}, seed {seed}" for label, seed in old],
        "at_once": max(most, before),
    }
    with replacing(file) as new:
        new.write_text(json.dumps(record, indent=1), encoding="utf-8")


def shared_gpus(todo: Sequence[Cell]) -> list[str]:
    """The GPUs of this machine, to be shared out; [] if there are none, or no cell asks for any.

    Raises:
        RecipeError: a cell asks for more than there are.
    """
    import torch

    most = max(todo, key=lambda cell: cell.gpus, default=None)
    count = torch.cuda.device_count()
    if most is None or most.gpus == 0 or (count == 0 and most.gpus == 1):
        return []
    if most.gpus > count:
        raise RecipeError(f"{most.name}: gpus: {most.gpus} asked for, but there are {count} here.")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(at) for at in range(count)])[:count]


def at_once(comparison: Comparison, gpus: Sequence[str]) -> tuple[int, int | None]:
    """How many cells this machine has room for, by its GPUs or, if it has none, by its cores; and
    how many cores each has, if the comparison says it."""
    import torch

    if gpus:
        return max(len(gpus) // max(comparison.gpus, 1), 1), None
    if comparison.cpus is None or torch.cuda.device_count():
        return 1, None
    return max(cores() // comparison.cpus, 1), comparison.cpus


def run_cells(todo: Sequence[Cell], pool: Pool, console: Console) -> dict[str, str]:
    """Run the cells, each in a process of its own; the reason of each that failed, by name."""
    failed: dict[str, str] = {}
    waiting = list(todo)
    running: dict[str, Cell] = {}
    while waiting or running:
        while cell := _startable(waiting, running, pool):
            waiting.remove(cell)
            reason = _prepared(cell, console)
            if reason == "":
                console.say(f"{cell.name}: running")
                running[cell.name] = cell
                name = cell.name if pool.jobs > 1 else ""
                told = (cell.document, cell.folder.path, name)
                pool.start(cell.name, _wanted(cell, pool), _work, *told)
            elif reason != "done":
                failed |= _closed(cell, Ended(cell.name, failure=reason))
        for end in pool.ended() if running else ():
            failed |= _closed(running.pop(end.name), end)
    return failed


def _wanted(cell: Cell, pool: Pool) -> int:
    """The GPUs that a cell is given, if any are shared out."""
    return cell.gpus if pool.gpus else 0


def _startable(waiting: Sequence[Cell], running: Mapping[str, Cell], pool: Pool) -> Cell | None:
    """The first cell that there is room for, and that waits for no other cell's result."""
    unfinished = {(cell.label, cell.seed) for cell in [*waiting, *running.values()]}
    for cell in waiting:
        waits = cell.match is not None and (cell.match.of, cell.seed) in unfinished
        if not waits and pool.room(_wanted(cell, pool)):
            return cell
    return None


def _prepared(cell: Cell, console: Console) -> str:
    """Make the folder ready: "" to run (or resume) it, "done", or why it cannot run."""
    said: list[str] = []
    try:
        if not fill_match(cell, said) and cell.match is not None:
            return f"'{cell.match.of}' with seed {cell.seed} has no result to match"
        state = state_of(cell)
    except DidactError as error:
        return str(error)
    for text in said:
        console.say(f"{cell.name}: its budget is that of a run of which {text}")
    if state == "done":
        console.say(f"{cell.name}: done before, reused")
    if state == "changed":
        put_aside(cell.folder.path)
    if state != "done":
        (cell.folder.path / "error.txt").unlink(missing_ok=True)
    return "done" if state == "done" else ""


def _closed(cell: Cell, end: Ended) -> dict[str, str]:
    """Why a cell that ended failed, if it did; one that could not write that down itself has it
    written into its folder."""
    if end.outcome == "interrupted":
        return {cell.name: "interrupted; the same command continues it"}
    if not end.failure:
        return {}
    file = cell.folder.path / "error.txt"
    if not file.exists():
        cell.folder.path.mkdir(parents=True, exist_ok=True)
        file.write_text(end.failure, encoding="utf-8")
    return {cell.name: end.failure}


def _work(document: Document, folder: Path, name: str) -> str:
    """In a cell's process: run or resume it. Lines begin with the name, if one is given."""
    from didact.configs.launch import train_recipe

    console = Console(indent=f"  {name}: " if name else "  ")
    console.live = console.live and not name  # several cannot rewrite one line of a terminal
    return train_recipe(document, out=folder, resume=folder.exists(), console=console)
