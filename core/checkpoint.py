"""The whole state of a run on disk: models, optimizers, random states, positions, buffers."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from didact.core.errors import RunError
from didact.core.folder import RunFolder
from didact.core.protocols import Run, Stateful


def save(folder: RunFolder, step: int, run: Run, parts: Mapping[str, Stateful], keep: int) -> Path:
    """Write the state after `step` steps under a temporary name, then rename it.

    Every rank writes its own file; rank 0 renames when all have.
    """
    target = folder.state(step)
    shared = target.with_name(f"{target.name}.partial")
    shared.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "size": run.world.size,
        "learners": {name: learner.state_dict() for name, learner in run.learners.items()},
        "versions": {name: generator.version for name, generator in run.generators.items()},
        "parts": {path: part.state_dict() for path, part in parts.items()},
    }
    with (shared / f"rank-{run.world.rank}.pt").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # on disk before its name is, should the machine lose power
    _legible(Path(file.name), parts)
    run.world.barrier()
    if run.world.rank == 0:
        if target.exists():
            raise RunError(f"{target}: exists already.")
        shared.rename(target)
        folder.keep_states(keep)
    run.world.barrier()
    return target


def _legible(file: Path, parts: Mapping[str, Stateful]) -> None:
    """Refuse a state that could not be read again; tensors are not read for that.

    Raises:
        RunError: names the part whose state is more than plain data and tensors.
    """
    try:
        torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:
        for name, part in parts.items():
            alone = io.BytesIO()
            torch.save(part.state_dict(), alone)
            alone.seek(0)
            try:
                torch.load(alone, weights_only=True)
            except pickle.UnpicklingError as own:
                said = f"{name}: its state_dict holds more than plain data and tensors"
                raise RunError(f"{said}: {str(own).partition('.')[0]}.") from None
        raise RunError(f"{file}: cannot be read again: {error}") from error


def load(path: Path, run: Run, parts: Mapping[str, Stateful]) -> int:
    """Restore a state; returns how many steps had been done.

    Raises:
        RunError: it was written by another number of processes, or by a run with other parts, or
            it is damaged.
    """
    file = path / f"rank-{run.world.rank}.pt"
    if not file.exists():
        raise RunError(f"{path}: has no state for rank {run.world.rank}.")
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{file}: is damaged; delete {path} to go on from the state before it, or from the "
            f"start if there is none. ({str(error).partition('.')[0] or 'it is empty'})"
        ) from error
    if state["size"] != run.world.size:
        raise RunError(
            f"{path}: was written by {state['size']} processes; this run has {run.world.size}."
        )
    if set(state["parts"]) != set(parts):
        odd = set(state["parts"]) ^ set(parts)
        raise RunError(f"{path}: was written with other parts: {', '.join(sorted(odd))}.")
    for generator in run.generators.values():
        generator.rest()  # memory is the learners' while they load, as it is while they learn
    for name, learner in run.learners.items():
        learner.load_state_dict(state["learners"][name])
        learner.rest()
    for where, part in parts.items():
        part.load_state_dict(state["parts"][where])
    for name, generator in run.generators.items():
        generator.resume(run.learners[name], state["versions"][name])
    return int(state["step"])
