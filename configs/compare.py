"""`didact compare`: methods x seeds from one file, each cell a run folder, then one report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from didact.configs.comparison import Cell, Comparison, cells, load_comparison, slug
from didact.configs.console import Console
from didact.configs.document import Document, Place, assign
from didact.configs.load import check
from didact.configs.resolve import as_yaml, resolved
from didact.configs.summary import print_summary
from didact.core.errors import DidactError, RunError
from didact.core.folder import RunFolder
from didact.plugins.manager import load


def run_comparison(
    source: str,
    out: Path,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    seeds: Sequence[int] = (),
    dry_run: bool = False,
) -> Path | None:
    """Run a comparison's cells and build its report; continues where it was interrupted.

    A failed cell does not stop the others: the report shows it with its error.

    Returns:
        The report, or None for a dry run.
    """
    comparison = load_comparison(source)
    if seeds:
        comparison = Comparison.model_validate({**comparison.model_dump(), "seeds": list(seeds)})
    todo = cells(comparison, out, only)
    console = Console()
    if dry_run:
        for line in estimate(todo):
            print(line)
        return None
    out.mkdir(parents=True, exist_ok=True)
    labels = list(comparison.methods)
    record = {
        "title": comparison.title or source,
        "about": comparison.about,
        "baseline": comparison.baseline or labels[0],
        "labels": {label: slug(label) for label in labels},
        "seeds": comparison.seeds,
        "axis": comparison.axis,
    }
    (out / "comparison.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    failed = _run(todo, jobs, console)
    from didact.core.report import build_report

    report = build_report([out], out)
    print_summary(cells(comparison, out, only))
    for name, reason in failed.items():
        console.say(f"failed: {name}: {reason}")
    return report


def estimate(todo: Sequence[Cell]) -> Iterator[str]:
    """One line a cell: whether it is done, and what it will do."""
    registry = load()
    for cell in todo:
        recipe = check(cell.document, registry)
        prompts = getattr(recipe.sampler.params, "prompts", "?")
        state = "done" if _finished(cell) else "to run"
        match = f", as many {cell.match.axis} as {cell.match.of}" if cell.match else ""
        yield (
            f"{cell.name:48} {state:7} {recipe.steps} steps x {prompts} prompts, at most "
            f"{recipe.sampling.max_tokens} tokens{match}"
        )


def _finished(cell: Cell) -> bool:
    """The folder holds this very recipe, trained to the end."""
    folder = cell.folder
    if not folder.final.exists() or not folder.recipe.exists():
        return False
    return _unchanged(cell)


def _unchanged(cell: Cell) -> bool:
    """The folder's recipe, and the model it started from, are what the cell asks for."""
    from didact.configs.launch import start_of

    folder, registry = cell.folder, load()
    if folder.recipe.read_text(encoding="utf-8") != _recipe_text(cell):
        return False
    if not folder.manifest.exists():
        return True
    began = json.loads(folder.manifest.read_text(encoding="utf-8")).get("start")
    return began in (None, start_of(check(cell.document, registry), registry))


def _recipe_text(cell: Cell) -> str:
    return as_yaml(resolved(check(cell.document, load())))


def _run(todo: Sequence[Cell], jobs: int, console: Console) -> dict[str, str]:
    """Run the cells in worker processes; the reason of each that failed, by name."""
    failed: dict[str, str] = {}
    waiting = list(todo)
    running: dict[Future[str], Cell] = {}
    pool = _pool(jobs)
    try:
        while waiting or running:
            blocked = {(c.label, c.seed) for c in [*waiting, *running.values()] if c.match is None}
            for cell in [c for c in waiting if _ready(c, blocked)][: jobs - len(running)]:
                waiting.remove(cell)
                reason = _prepared(cell)
                if reason == "done":
                    console.say(f"{cell.name}: done before, reused")
                elif reason:
                    failed[cell.name] = reason
                else:
                    console.say(f"{cell.name}: running")
                    running[pool.submit(_work, cell.document, str(cell.folder.path))] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                cell = running.pop(future)
                try:
                    if future.result() == "interrupted":
                        raise KeyboardInterrupt
                except BrokenProcessPool:
                    failed[cell.name] = "its process died (out of memory, or killed)"
                    (cell.folder.path / "error.txt").write_text(failed[cell.name], encoding="utf-8")
                    pool = _pool(jobs)
                except Exception as error:
                    failed[cell.name] = str(error).splitlines()[0] if str(error) else repr(error)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _ready(cell: Cell, blocked: set[tuple[str, int]]) -> bool:
    return cell.match is None or (cell.match.of, cell.seed) not in blocked


def _pool(jobs: int) -> ProcessPoolExecutor:
    context = get_context("spawn")
    devices = context.Queue()
    for at in range(jobs):
        devices.put(at)
    return ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_claim, initargs=(devices, jobs)
    )


def _claim(devices: Any, jobs: int) -> None:
    """Give each worker a GPU of its own where there are several, and its share of the cores."""
    at = devices.get()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if jobs > 1:
        import torch

        count = torch.cuda.device_count()
        gpus = visible.split(",") if visible else [str(gpu) for gpu in range(count)]
    if jobs > 1 and gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[at % len(gpus)]
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // jobs, 1)))


def _prepared(cell: Cell) -> str:
    """Make the folder ready: "" to run (or resume) it, "done", or why it cannot run."""
    if cell.match is not None:
        other = cell.folder.path.parent.parent / slug(cell.match.of) / str(cell.seed)
        spent = _spent(RunFolder(other), cell.match.axis)
        if spent is None:
            return f"'{cell.match.of}' with seed {cell.seed} has no result to match"
        if cell.match.axis == "steps":
            assign(cell.document, "steps", int(spent), Place("match", 0))
        else:
            assign(cell.document, f"budget.{cell.match.axis}", spent, Place("match", 0))
    if _finished(cell):
        return "done"
    folder = cell.folder
    if folder.recipe.exists() and not _unchanged(cell):
        aside = folder.path.with_name(f"{folder.path.name}.replaced")
        at = 1
        while aside.exists():
            at += 1
            aside = folder.path.with_name(f"{folder.path.name}.replaced-{at}")
        folder.path.rename(aside)
    return ""


def _spent(folder: RunFolder, axis: str) -> float | None:
    if not folder.final.exists() or not folder.metrics.exists():
        return None
    last: float | None = None
    for line in folder.metrics.read_text(encoding="utf-8").splitlines():
        row: Mapping[str, Any] = json.loads(line)
        last = row.get(f"spent/{axis}", last)
    return last


def _work(document: Document, folder: str) -> str:
    """In a worker: run or resume one cell."""
    from didact.configs.launch import train_recipe

    path = Path(folder)
    (path / "error.txt").unlink(missing_ok=True)
    try:
        return train_recipe(document, out=path, resume=path.exists(), console=Console(indent="  "))
    except DidactError as error:
        raise RunError(str(error)) from None
