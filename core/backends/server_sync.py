"""The learner's weights into vLLM servers: through a folder that they can read, or over NCCL."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from didact.core.backends.endpoint import Endpoint
from didact.core.backends.remote_engine import NCCL, START, RemoteEngine
from didact.core.backends.server_nccl import ByNccl, nccl
from didact.core.backends.servers import Servers
from didact.core.backends.weight_sync import Weights, shared_memory
from didact.core.errors import RecipeError, RunError
from didact.core.protocols import World

log = logging.getLogger(__name__)
SERVED = "didact-served-"
"""How the folders begin in which servers find weights."""


@dataclass
class ByFolder:
    """A file in a folder that every server reads; one that was restarted reads it again.

    For servers on this machine (the folder is in its memory) or with a shared file system.
    """

    servers: Servers
    folder: Path
    dtype: torch.dtype
    world: World

    def push(self, weights: Callable[[], Weights], version: int) -> Sequence[str]:
        """New weights for all servers that are up; their URLs. Every rank calls and iterates."""
        first = self.world.rank == 0
        held = {name: value.detach().to(self.dtype).cpu() for name, value in weights() if first}
        before, self.servers.mark = self._path(), f"{self.servers.run}{version}"
        reached: Sequence[list[str]] = self.world.map(
            lambda mine: [self._give(held, before) if at == 0 else [] for at in mine],
            range(self.world.size),
        )
        return reached[0]

    def _give(self, held: Mapping[str, Tensor], before: Path) -> list[str]:
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in held.items()}, self._path())
        reached = self.servers.each(self._load)
        if before != self._path():
            before.unlink(missing_ok=True)
        return reached

    def admit(self, server: Endpoint) -> None:
        """Before a server is asked: if it has lost its weights, it gets them."""
        if self.servers.stale(server):
            log.warning(f"server {server.url}: it has lost its weights and gets them again")
            self._load(server.url)

    def _load(self, url: str) -> None:
        engine = self.servers.engines[url]
        engine.pause()
        try:
            engine.collective_rpc("didact_load", (str(self._path()), self.servers.mark))
            self.servers.versions[url].forget_prefixes(engine)
        finally:
            engine.resume()

    def _path(self) -> Path:
        name = self.servers.mark.removeprefix(self.servers.run) or "none"
        return self.folder / f"{name}.safetensors"


def opened(
    sync: Literal["folder", "nccl"],
    servers: Sequence[Endpoint],
    world: World,
    folder: str | None,
    bucket: int,
) -> ByFolder | ByNccl:
    """A way of weights into servers, all of which can go it.

    Raises:
        RunError: a server or this process lacks what that needs.
        RecipeError: there is no such folder.
    """
    if sync == "nccl":
        _check_here()
    engines = {server.url: RemoteEngine.at(server) for server in servers}
    versions = {url: engine.check() for url, engine in engines.items()}
    about = {url: engine.about() for url, engine in engines.items()}
    for url, said in about.items():
        if sync == "nccl" and said.transfer != "nccl":
            raise RunError(
                f"generator 'server': {url} was not started for weights over NCCL. Start it so: "
                f"{START} {NCCL}"
            )
    dtypes = {said.dtype for said in about.values()}
    if len(dtypes) > 1:
        raise RunError("generator 'server': the servers compute in different dtypes.")
    run = world.map(lambda mine: [f"{secrets.token_hex(4)}/" for _ in mine], range(world.size))[0]
    together = Servers(engines, versions, run, servers[0].wait)
    if sync == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
        return ByNccl(together, dtypes.pop(), device, world, bucket, nccl)
    place = Path(folder or shared_memory() or tempfile.gettempdir()).resolve()
    if not place.is_dir():
        raise RecipeError(f"generator.folder: there is no folder {place}.")
    way = ByFolder(together, place / f"{SERVED}{run[:-1]}", dtypes.pop(), world)
    if world.rank == 0:
        if folder is None:  # on a file system of several machines locks may be of one
            sweep(place)
        weakref.finalize(way, _dropped, way.folder, owned(way.folder))
    return way


def _check_here() -> None:
    if not torch.cuda.is_available():
        raise RunError("generator 'server': sync 'nccl' needs a GPU here; use sync=folder.")
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        raise RunError(
            "generator 'server': sync 'nccl' needs vLLM here too, for its communicator: pip "
            "install 'didact[gpu]', or use sync=folder."
        ) from None


def owned(folder: Path) -> int:
    """Make a folder that is this process's until the descriptor is closed or the process ends."""
    hidden = folder.with_name(f".{folder.name}")
    hidden.mkdir(mode=0o700)
    handle = os.open(hidden, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    hidden.rename(folder)
    return handle


def sweep(place: Path) -> None:
    """Remove the folders of processes that ended without doing so, killed for example."""
    for folder in place.glob(f"{SERVED}*"):
        with suppress(OSError):  # another user's, or one whose process lives
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                log.warning(f"{folder}: weights of a run that was killed, removed")
                shutil.rmtree(folder)
            finally:
                os.close(handle)


def _dropped(folder: Path, handle: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(handle)
