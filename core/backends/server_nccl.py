"""The learner's weights from GPU to GPU: by NCCL into the workers of vLLM servers."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from didact.core.backends.endpoint import Endpoint, Unreachable
from didact.core.backends.remote_engine import QUICK, RemoteEngine
from didact.core.backends.servers import Servers
from didact.core.backends.weight_sync import Chunk, Weights, holding, packed
from didact.core.errors import RunError
from didact.core.protocols import World

log = logging.getLogger(__name__)
FAILURES = RunError, RuntimeError
"""Of a server: what it answers or does not, and what NCCL says of it."""


class Group(Protocol):
    """This process, first of a communicator with the workers of one server."""

    def broadcast(self, tensor: Tensor, src: int) -> None: ...

    def destroy(self) -> None:
        """Abort it, with the broadcasts under way."""


Connect = Callable[[str, int, int], Group]
"""From (address, port, processes) of a rendezvous to the communicator."""


@dataclass
class ByNccl:
    """Packed chunks by NCCL broadcast, from the first rank's GPU to the workers of each server.

    A server that was restarted cannot be given the weights between two pushes: the others do its
    work until then, and that of one which fails in the middle of a push. Written to vLLM's
    interface and tested with a stand-in; not run on a GPU.

    Attributes:
        bucket: bytes of a chunk, if no tensor is larger.
        size: bytes of a chunk, known since the first push; servers are told this number.
        connect: opens a communicator.
        lost: servers that failed in the latest push, and how.
        ports: where this process meets each server, if it has to.
    """

    servers: Servers
    dtype: torch.dtype
    device: torch.device
    world: World
    bucket: int
    connect: Connect
    groups: dict[str, Group] = field(default_factory=dict)
    size: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def push(self, weights: Callable[[], Weights], version: int) -> Sequence[str]:
        """New weights for all servers that are up; their URLs. Every rank calls and iterates.

        The first push goes through the weights twice, for the size of the largest.
        """
        self.size = self.size or holding(self.bucket, weights(), self.dtype)
        self.servers.mark = f"{self.servers.run}{version}"
        self.lost.clear()
        self.ports = _free_ports(self.servers.engines)
        joined: Sequence[list[str]] = self.world.map(
            lambda mine: [self.servers.each(self._join) if at == 0 else [] for at in mine],
            range(self.world.size),
        )
        left: list[str] = []
        if self.world.rank == 0:
            left = self._send([url for url in joined[0] if url not in self.lost], weights())
        else:
            for _ in weights():
                pass
        reached: Sequence[list[str]] = self.world.map(
            lambda mine: [self._some(left) if at == 0 else [] for at in mine],
            range(self.world.size),
        )
        return reached[0]

    def admit(self, server: Endpoint) -> None:
        """Before a server is asked: if it has lost its weights, it counts as down."""
        if self.servers.stale(server):
            raise Unreachable("it has lost its weights, which come with the next update")

    def _join(self, url: str) -> None:
        """Have a communicator with a server that is up, or lose it."""
        try:
            self._meet(url)
        except Unreachable:
            raise
        except FAILURES as error:
            self._lose(url, error)

    def _meet(self, url: str) -> None:
        """Open a communicator with a server that has none, or was restarted since."""
        engine = self.servers.engines[url]
        about = engine.about()
        if url in self.groups and about.held.startswith(self.servers.run):
            return
        address, port = _own_address(url), self.ports[url]
        place = {"master_address": address, "master_port": port, "rank_offset": 1}
        size = 1 + about.workers
        request = self.servers.versions[url].init_info(
            "nccl", {**place, "world_size": size}, packed_buffer_size_bytes=self.size
        )
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.init_weight_transfer_engine, request)
            try:
                group = self.connect(address, port, size)
            except RuntimeError:
                waiting.result()  # why, if the server says it
                raise
            waiting.result()
        self.groups[url] = group

    def _send(self, urls: list[str], weights: Weights) -> list[str]:
        """All chunks to some servers; those that have them. It goes through all in any case."""
        buffer = torch.empty(self.size, dtype=torch.uint8, device=self.device)
        left = urls
        try:
            left = self._tried(left, self._begin)
            with ThreadPoolExecutor(max(1, len(urls))) as pool:
                for chunk in packed(weights, buffer, self.dtype):
                    left = self._give(left, chunk, buffer[: sum(chunk.tensor_sizes)], pool)
            return self._tried(left, self._end)
        except BaseException:
            for url in left:
                self._release(url)
            raise

    def _begin(self, url: str) -> None:
        engine = self.servers.engines[url]
        engine.pause()
        engine.collective_rpc("didact_mark", ("",))
        engine.start_weight_update()

    def _give(
        self, urls: list[str], chunk: Chunk, full: Tensor, pool: ThreadPoolExecutor
    ) -> list[str]:
        about = {key: vars(chunk)[key] for key in ("names", "dtype_names", "shapes")}
        waiting = {
            url: pool.submit(self.servers.engines[url].update_weights, self._update(url, about))
            for url in urls
        }
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        left = self._tried(urls, lambda url: self.groups[url].broadcast(full, src=0))
        sent: Any = torch.cuda.Event() if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if sent is not None:
            sent.record()
        while sent is not None and not sent.query():
            left = self._tried(left, lambda url: waiting[url].done() and waiting[url].result())
            time.sleep(1e-3)
        return self._tried(left, lambda url: waiting[url].result())

    def _end(self, url: str) -> None:
        engine, versions = self.servers.engines[url], self.servers.versions[url]
        versions.finish(engine, self.servers.mark)
        versions.forget_prefixes(engine)
        engine.collective_rpc("didact_mark", (self.servers.mark,))
        engine.resume()

    def _tried(self, urls: Sequence[str], call: Callable[[str], object]) -> list[str]:
        """Call with every URL in turn; those where that went well. The others leave this push."""
        return [url for url in urls if self._went(url, call)]

    def _went(self, url: str, call: Callable[[str], object]) -> bool:
        try:
            call(url)
        except FAILURES as error:
            self._lose(url, error)
            return False
        return True

    def _lose(self, url: str, error: Exception) -> None:
        said = str(error).removeprefix(f"server {self.servers.engines[url].endpoint.url}: ")
        log.warning(f"server {url}: {said}; it gets no weights now")
        self.lost[url] = said
        self._release(url)

    def _release(self, url: str) -> None:
        """Leave a server in the middle: its communicator and its update end, its requests go on.

        Its weights have no mark, so it is asked for nothing until a push has reached it.
        """
        group = self.groups.pop(url, None)
        if group is not None:
            group.destroy()
        place = self.servers.engines[url].endpoint
        engine = RemoteEngine(replace(place, timeout=min(place.timeout, QUICK)))
        for step in (engine.finish_weight_update, engine.resume):
            with suppress(RunError):  # it is down, or was not that far
                step()

    def _some(self, reached: list[str]) -> list[str]:
        if not reached:
            why = "; ".join(f"{url}: {self.lost.get(url, 'down')}" for url in self.servers.engines)
            raise RunError(
                f"generator 'server': no server took the weights ({why}). Start them again and "
                f"continue with --resume."
            )
        return reached

    def _update(self, url: str, about: Mapping[str, Any]) -> dict[str, Any]:
        return self.servers.versions[url].update_info(
            "nccl", about, packed_buffer_size_bytes=self.size
        )


def _own_address(url: str) -> str:
    """This machine's address as a server sees it. Nothing is sent."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((parts.hostname, parts.port or 80))
        address: str = towards.getsockname()[0]
    return address


def _free_ports(urls: Collection[str]) -> dict[str, int]:
    """A free port of this machine for each, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in urls]
        for each in sockets:
            each.bind(("", 0))
        return {url: each.getsockname()[1] for url, each in zip(urls, sockets, strict=True)}


def nccl(address: str, port: int, size: int) -> Group:
    """vLLM's own communicator, as the first of `size` processes, on the present GPU."""
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.utils import StatelessProcessGroup

    place = StatelessProcessGroup.create(host=address, port=port, rank=0, world_size=size)
    group: Group = PyNcclCommunicator(place, device=torch.cuda.current_device())
    return group
