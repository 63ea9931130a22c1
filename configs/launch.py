"""From a checked recipe to a run: models, engines, folder and session."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.configs.assemble import Parts, assemble
from didact.configs.build import Builder
from didact.configs.console import Console
from didact.configs.document import Document, read
from didact.configs.engines import Opened, open_recipe
from didact.configs.load import check
from didact.configs.resolve import as_yaml, resolved
from didact.configs.schema import Recipe
from didact.core import world as worlds
from didact.core.backends.models import ModelSpec
from didact.core.errors import RecipeError, RunError
from didact.core.folder import RunFolder, manifest, no_room_said, replacing
from didact.core.gather import Gather, GatherAhead
from didact.core.session import Session, Stop
from didact.plugins.manager import load
from didact.plugins.registry import Registry

LAUNCHED = frozenset({"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"})
"""What `torchrun` sets to tell a process that it is one of several."""


def train_recipe(
    source: str | Path | Document,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    console: Console | None = None,
) -> str:
    """Train by a recipe, from start or from the last state; returns "done" or "interrupted"."""
    registry = load()
    document = source if isinstance(source, Document) else read(source, overrides)
    recipe = check(document, registry)
    parts = assemble(recipe, registry, document)
    if not recipe.experience or not recipe.phases:
        raise RecipeError(f"{source}: nothing to train: it has no 'experience' or no 'phases'.")
    folder = RunFolder(out or Path("runs") / f"{document.name}-{recipe.seed}")
    world = worlds.current()
    console = console or Console(quiet=quiet or world.rank > 0)
    with folder.held() if world.rank == 0 else contextlib.nullcontext():
        origin: Mapping[str, Any] = {}
        if world.rank == 0:
            folder.create(resume=resume, recipe=as_yaml(resolved(recipe)))
            origin = {"start": start_of(recipe, registry), "data": data_of(recipe)}
            _same_start(folder, origin)
        world.barrier()
        if resume and not folder.states():
            console.say(f"{folder.path}: no state to resume from, starting at the first step")
        if resume and folder.final.exists():
            console.say(f"{folder.path}: finished already")
            return "done"
        for notice in parts.notices:
            console.say(f"note: {notice}")
        return _trained(recipe, parts, registry, folder, console, resume, origin)


def _trained(
    recipe: Recipe,
    parts: Parts,
    registry: Registry,
    folder: RunFolder,
    console: Console,
    resume: bool,
    origin: Mapping[str, Any],
) -> str:
    """Load the models and run; whatever ends it early is written into the folder."""
    try:
        with no_room_said(folder.path):
            policy = policy_of(recipe, None, registry, console)
            opened = open_recipe(recipe, parts, registry, policy)
            tell_left_out("task", opened.parts.task, console, folder)
            if opened.evaluation is not None:
                tell_left_out("evaluation.task", opened.evaluation.task, console, folder)
            return _session(opened, folder, console, resume, origin)()
    except BaseException:
        with contextlib.suppress(OSError):  # the disk may be what failed
            (folder.path / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise


def policy_of(
    recipe: Recipe, checkpoint: Path | None, registry: Registry, console: Console
) -> ModelSpec:
    """The model to start from: a checkpoint, a base made by a recipe, or what `models:` says."""
    given = recipe.models.get("policy")
    kept = given.model_dump(exclude={"config", "path"}) if given else {}
    if checkpoint is not None:
        return ModelSpec(**{**kept, "path": str(checkpoint), "tokenizer": None})
    if recipe.base is not None:
        if given is not None and not given.follows_policy:
            raise RecipeError("models.policy and base: only one of them can name the weights.")
        name = start_of(recipe, registry)
        base = ModelSpec(path=str(make_base(recipe.base, name, recipe.seed, console)))
        return (given or ModelSpec()).following(base)
    if given is None:
        raise RecipeError("models.policy: is required, unless 'base' names a recipe that makes it.")
    return given


def cache_folder() -> Path:
    """Where base models are kept: $DIDACT_CACHE, or the user's cache folder."""
    return Path(os.environ.get("DIDACT_CACHE", "~/.cache/didact")).expanduser()


def _same_start(folder: RunFolder, origin: Mapping[str, Any]) -> None:
    """Refuse to go on from another model, or with other data, than the run began with."""
    if not folder.manifest.exists():
        return
    written = json.loads(folder.manifest.read_text(encoding="utf-8"))
    start = origin["start"]
    began = written.get("start", start)
    if began != start:
        raise RunError(
            f"{folder.path}: began with '{began}', but its recipe now starts from '{start}' (the "
            f"base recipe has changed); start a new run."
        )
    other = changed_data(written, origin["data"])
    if other:
        raise RunError(
            f"{folder.path}: began with another file than there is now for {', '.join(other)}; "
            f"put it back, or start a new run."
        )


def changed_data(began: Mapping[str, Any], data: Mapping[str, str]) -> list[str]:
    """The data files of `data_of` that are others than those in the manifest of a run."""
    before: Mapping[str, str] = began.get("data", {})
    return sorted(name for name, found in before.items() if data.get(name, found) != found)


def data_of(recipe: Recipe) -> dict[str, str]:
    """The SHA-256 of every data file, by where in the recipe its task is."""
    evaluated = recipe.evaluation.task if recipe.evaluation else None
    tasks = {"task": recipe.task, "evaluation": evaluated}
    return {n: hashed for at, spec in tasks.items() if spec for n, hashed in _hashes(spec, at)}


def _hashes(spec: Any, name: str) -> Iterator[tuple[str, str]]:
    path = getattr(spec.params, "path", None)
    if path and (known := Path(path).expanduser()).is_file():
        with known.open("rb") as file:
            yield name, hashlib.file_digest(file, "sha256").hexdigest()
    for key, value in spec.params:
        parts = value.items() if isinstance(value, Mapping) else ()
        for part, inner in parts:
            if hasattr(inner, "params"):  # one of a mixture's tasks
                yield from _hashes(inner, f"{name}.{key}.{part}")


def start_of(recipe: Recipe, registry: Registry, above: tuple[str, ...] = ()) -> str:
    """What the policy starts from: the base with a hash of how it is made, or the model's name.

    Raises:
        RecipeError: a base, `above` it say which, is made from itself.
    """
    if recipe.base is None:
        policy = recipe.models.get("policy")
        return (policy.path if policy else None) or "fresh weights"
    if recipe.base in above:
        raise RecipeError(f"base: '{recipe.base}' is made from itself.")
    base = check(read(recipe.base, [f"seed={recipe.seed}"]), registry)
    told = [as_yaml(resolved(base)), *data_of(base).values()]
    if base.base is not None:
        told.append(start_of(base, registry, (*above, recipe.base)))
    made = hashlib.sha256("".join(told).encode()).hexdigest()[:12]
    return f"{Path(recipe.base).stem}-{recipe.seed}-{made}"


def make_base(source: str, name: str, seed: int, console: Console) -> Path:
    """The final model of a base recipe, made once for each resolved recipe and then cached."""
    home = cache_folder() / "bases" / name
    world = worlds.current()
    if world.rank == 0:
        home.parent.mkdir(parents=True, exist_ok=True)
        with (home.parent / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.say(f"waiting for the base model '{source}', which another run is making")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "final").exists():
                console.say(f"making the base model '{source}' (once; kept in {home})")
                _make(source, seed, home, console.nested())
    world.barrier()
    return home / "final"


def _make(source: str, seed: int, home: Path, console: Console) -> None:
    with replacing(home) as unfinished:
        if worlds.current().size > 1:  # a run of its own, in one process
            alone = {k: v for k, v in os.environ.items() if k not in LAUNCHED}
            command = [sys.executable, "-c", "from didact.configs.cli import main; main()", "train"]
            arguments = [source, f"seed={seed}", "--out", str(unfinished), "--quiet"]
            subprocess.run([*command, *arguments], env=alone, check=True)
        elif train_recipe(source, [f"seed={seed}"], out=unfinished, console=console) != "done":
            raise KeyboardInterrupt


def tell_left_out(
    name: str, task: object, console: Console, folder: RunFolder | None = None
) -> None:
    """Say how many rows of the data were left out on request; list the bad ones, in the folder
    if there is one."""
    if filtered := getattr(task, "filtered", 0):
        console.say(f"{name}: {filtered} rows are not chosen by 'where'")
    skipped: Sequence[str] = getattr(task, "skipped", ())
    if skipped and folder is not None:
        file = folder.path / f"skipped-{name}.txt"
        file.write_text("\n".join(skipped) + "\n", encoding="utf-8")
        console.say(f"{name}: {len(skipped)} rows skipped, the first: {skipped[0]} (see {file})")
    elif skipped:
        console.say(f"{name}: {len(skipped)} rows skipped:")
        for line in skipped:
            console.say(f"  {line}")


def _session(
    opened: Opened, folder: RunFolder, console: Console, resume: bool, origin: Mapping[str, Any]
) -> Session:
    recipe, stop = opened.recipe, opened.recipe.stop
    experience = opened.parts.experience
    session = Session(
        run=opened.run,
        gather=GatherAhead(experience, recipe.steps) if recipe.staleness else Gather(experience),
        phases=opened.parts.phases,
        steps=recipe.steps,
        folder=folder,
        parts=opened.parts.stateful,
        evaluation=opened.evaluation,
        stop=Stop(stop.metric, stop.at_least, stop.cooldown, stop.after) if stop else None,
        save_every=recipe.checkpoint.every,
        keep=recipe.checkpoint.keep,
        budget=recipe.budget.model_dump(exclude_none=True),
    )
    if resume:
        session.resume()
    if opened.run.world.rank == 0:
        builder = Builder(opened.registry)
        session.observers = [
            *(
                builder.part(spec, f"observers.{at}", folder=folder.path, steps=recipe.steps)
                for at, spec in enumerate(recipe.observers)
            ),
            console.watching(recipe.steps, recipe.phases),
        ]
        _write_manifest(folder, opened, origin)
    return session


def _write_manifest(folder: RunFolder, opened: Opened, origin: Mapping[str, Any]) -> None:
    plugins = opened.registry.versions()
    recipe = opened.recipe
    record = manifest(seed=recipe.seed, plugins=plugins, data=origin["data"])
    record["start"] = origin["start"]
    record["recipe"] = hashlib.sha256(as_yaml(resolved(recipe)).encode()).hexdigest()
    with replacing(folder.manifest) as new:
        new.write_text(json.dumps(record, indent=1), encoding="utf-8")
