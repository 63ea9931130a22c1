"""A run's folder, which stands alone: recipe, manifest, metrics, answers, states, final model."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from didact.core.errors import RunError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Numbers of the errors by which a disk says that it takes nothing more."""

PACKAGES = ("didact", "torch", "transformers", "deepspeed", "vllm", "datasets", "math-verify")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder, and the few ways it is written."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def final(self) -> Path:
        return self.path / "final"

    def evaluation(self, step: int) -> Path:
        return self.path / "evaluation" / f"step-{step:06d}.jsonl"

    def state(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def states(self) -> list[tuple[int, Path]]:
        """Finished states, oldest first; a half-written one has another name and is not seen."""
        found = (self.path / "checkpoints").glob("step-*")
        names = [path for path in found if path.name.removeprefix("step-").isdigit()]
        return sorted((int(path.name.removeprefix("step-")), path) for path in names)

    def create(self, *, resume: bool, recipe: str) -> None:
        """Enter a new run in the folder, or check that it is this recipe's to resume.

        What failed before it began (it has no manifest yet) may be entered anew.

        Raises:
            RunError: it holds another run, or (resuming) another recipe, or cannot be written.
        """
        began = self.manifest.exists()
        if began and not resume:
            raise RunError(
                f"{self.path}: holds a run already; give another --out, or --resume to continue it."
            )
        if began and self.recipe.read_text(encoding="utf-8") != recipe:
            raise RunError(
                f"{self.path}: was started with another recipe; compare with "
                f"'didact recipe diff {self.recipe} …' and start a new run for the new one."
            )
        with self._written():
            (self.path / "error.txt").unlink(missing_ok=True)
            if not began:
                with replacing(self.recipe) as new:
                    new.write_text(recipe, encoding="utf-8")

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}.") from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder; meanwhile no other process trains in it.

        Raises:
            RunError: one does already, or it cannot be made.
        """
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # raised by file systems without locks
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunError(f"{self.path}: another process is training in it.") from None
            yield
        finally:
            os.close(handle)

    def keep_states(self, count: int) -> None:
        """Delete all but the newest states."""
        for _, path in self.states()[:-count]:
            shutil.rmtree(path)

    def truncate_logs(self, step: int, evaluated: int) -> None:
        """Forget the steps and evaluations after these: a resumed run continues its own record."""
        for file in (self.path / "evaluation").glob("step-*.jsonl"):
            if file.name > self.evaluation(evaluated).name:
                file.unlink()
        for name in ("metrics.jsonl", "trajectories.jsonl"):
            file = self.path / name
            if file.exists():
                with replacing(file) as new, new.open("w", encoding="utf-8") as out:
                    out.writelines(_until(file, step, evaluated))  # one by one: it may be long


def _until(file: Path, step: int, evaluated: int) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # a line cut off by a crash is dropped
                row = json.loads(line)
                if row["step"] <= (evaluated if row.get("kind") == "evaluation" else step):
                    yield line.rstrip("\n") + "\n"


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file or folder under a temporary name; it takes its name only when complete."""
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    if partial.is_dir():
        shutil.rmtree(partial)
    yield partial
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(partial, target)


@contextlib.contextmanager
def no_room_said(folder: Path) -> Iterator[None]:
    """Say in one line that the disk under a folder takes nothing more; other errors pass."""
    try:
        yield
    except Exception as error:
        first: BaseException = error
        while first.__context__ is not None:  # torch.save says another error on top
            first = first.__context__
        if not isinstance(first, OSError) or first.errno not in FULL:
            raise
        raise RunError(f"{folder}: cannot be written: {first.strerror}.") from error


def manifest(*, seed: int, plugins: Mapping[str, str], data: Mapping[str, str]) -> dict[str, Any]:
    """What a run was made with: versions, plug-ins, code, machine, data, seed, command."""
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return {
        "seed": seed,
        "command": sys.argv,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "plugins": dict(plugins),
        "git": _git(),
        "data": dict(data),
        "hardware": {
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, str]:
    """Commit and state of the working folder's checkout, if it is one."""

    def ask(*words: str) -> str:
        answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
        commit = ask("rev-parse", "HEAD")
        return (
            {"commit": commit, "dirty": str(bool(ask("status", "--porcelain")))} if commit else {}
        )
    except FileNotFoundError:
        return {}
