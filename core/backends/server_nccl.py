"""The learner's weights from GPU to GPU: by NCCL into the workers of vLLM servers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from didact.core.backends.endpoint import Endpoint, Unreachable
from didact.core.backends.servers import Servers
from didact.core.backends.weight_sync import Weights, holding, packed
from didact.core.protocols import World


class Group(Protocol):
    """This process, first of a communicator with the workers of one server."""

    def broadcast(self, tensor: Tensor, src: int) -> None: ...


Connect = Callable[[str, int, int], Group]
"""From (address, port, processes) of a rendezvous to the communicator."""


@dataclass
class ByNccl:
    """Packed chunks by NCCL broadcast, from the first rank's GPU to the workers of each server.

    A server that was restarted cannot be given the weights between two pushes: the others do its
    work until then. Written to vLLM's interface and tested with a stand-in; not run on a GPU.

    Attributes:
        bucket: bytes of a chunk, if no tensor is larger.
        size: bytes of a chunk, known since the first push; servers are told this number.
        connect: opens a communicator.
    """

    servers: Servers
    dtype: torch.dtype
    device: torch.device
    world: World
    bucket: int
    connect: Connect
    groups: dict[str, Group] = field(default_factory=dict)
    size: int = 0

    def push(self, weights: Callable[[], Weights], version: int) -> Sequence[str]:
        """New weights for all servers that are up; their URLs. Every rank calls and iterates.

        The first push goes through the weights twice, for the size of the largest.
        """
        self.size = self.size or holding(self.bucket, weights(), self.dtype)
        self.servers.mark = f"{self.servers.run}{version}"
        joined: Sequence[list[str]] = self.world.map(
            lambda mine: [self.servers.each(self._join) if at == 0 else [] for at in mine],
            range(self.world.size),
        )
        if self.world.rank == 0:
            self._send(joined[0], weights())
        else:
            for _ in weights():
                pass
        self.world.barrier()
        return joined[0]

    def admit(self, server: Endpoint) -> None:
        """Before a server is asked: if it has lost its weights, it counts as down."""
        if self.servers.stale(server):
            raise Unreachable("it has lost its weights, which come with the next update")

    def _join(self, url: str) -> None:
        """Open a communicator with a server that has none, or was restarted since."""
        engine = self.servers.engines[url]
        about = engine.about()
        if url in self.groups and about.held.startswith(self.servers.run):
            return
        address, port = _own_address(url)
        place = {"master_address": address, "master_port": port, "rank_offset": 1}
        size = 1 + about.workers
        request = self.servers.versions[url].init_info(
            "nccl", {**place, "world_size": size}, packed_buffer_size_bytes=self.size
        )
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.init_weight_transfer_engine, request)
            self.groups[url] = self.connect(address, port, size)
            waiting.result()

    def _send(self, urls: Sequence[str], weights: Weights) -> None:
        engines = {url: self.servers.engines[url] for url in urls}
        buffer = torch.empty(self.size, dtype=torch.uint8, device=self.device)
        for engine in engines.values():
            engine.pause()
            engine.start_weight_update()
        with ThreadPoolExecutor(len(engines)) as pool:
            for chunk in packed(weights, buffer, self.dtype):
                about = {key: vars(chunk)[key] for key in ("names", "dtype_names", "shapes")}
                full = buffer[: sum(chunk.tensor_sizes)]
                waiting = [
                    pool.submit(engine.update_weights, self._update(url, about))
                    for url, engine in engines.items()
                ]
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                for url in urls:
                    self.groups[url].broadcast(full, src=0)
                _wait(waiting, self.device)
        for url, engine in engines.items():
            self.servers.versions[url].finish(engine, self.servers.mark)
            engine.collective_rpc("didact_mark", (self.servers.mark,))
            self.servers.versions[url].forget_prefixes(engine)
            engine.resume()

    def _update(self, url: str, about: Mapping[str, Any]) -> dict[str, Any]:
        return self.servers.versions[url].update_info(
            "nccl", about, packed_buffer_size_bytes=self.size
        )


def _wait(waiting: Sequence[Future[None]], device: torch.device) -> None:
    """Until the broadcasts are through and the servers have answered, or one fails."""
    sent: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    if sent is not None:
        sent.record()
    while sent is not None and not sent.query():
        for answer in waiting:
            if answer.done():
                answer.result()
        time.sleep(1e-3)
    for answer in waiting:
        answer.result()


def _own_address(url: str) -> tuple[str, int]:
    """This machine's address as a server sees it, and a free port. Nothing is sent."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((parts.hostname, parts.port or 80))
        address: str = towards.getsockname()[0]
    with socket.socket() as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
    return address, port


def nccl(address: str, port: int, size: int) -> Group:
    """vLLM's own communicator, as the first of `size` processes, on the present GPU."""
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.utils import StatelessProcessGroup

    place = StatelessProcessGroup.create(host=address, port=port, rank=0, world_size=size)
    group: Group = PyNcclCommunicator(place, device=torch.cuda.current_device())
    return group
