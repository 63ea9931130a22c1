"""A vLLM server with the face of an engine in this process, as far as weights go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from didact.core.backends.endpoint import Endpoint
from didact.core.backends.spread import spread
from didact.core.backends.vllm_versions import Versions
from didact.core.errors import RunError

START = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs "
    "--worker-extension-cls didact.core.backends.weight_sync.EngineSide"
)
"""How to start a server whose weights follow a learner."""
NCCL = """--weight-transfer-config '{"backend": "nccl"}'"""
"""What to add where they come over NCCL."""

QUICK = 30.0
"""Seconds for a question that needs no work."""


@dataclass(frozen=True)
class About:
    """What a server says of itself.

    Attributes:
        held: the mark of its weights; "" since its start.
        dtype: of its weights.
        transfer: the backend of weight transfers that it was started for, or "".
        workers: processes that hold a part of the model, or a copy.
    """

    held: str
    dtype: torch.dtype
    transfer: str
    workers: int


@dataclass(frozen=True)
class RemoteEngine:
    """Calls of `vllm.LLM` as requests to the development routes of a server.

    Attributes:
        endpoint: the server's root, without the version of the OpenAI interface.
    """

    endpoint: Endpoint

    @classmethod
    def at(cls, server: Endpoint) -> RemoteEngine:
        """The engine behind an OpenAI-compatible interface. What it refuses is not asked again."""
        root = server.url.rstrip("/").removesuffix("/v1")
        return cls(replace(server, url=root, retries=0))

    def check(self) -> Versions:
        """Whether weights can be pushed here, and how to speak to it.

        Raises:
            RunError: it lacks what that needs; the message says how to start it.
        """
        url = self.endpoint.url
        release = spread([self.endpoint], "/version", [None])[0].get("version", "of no version")
        versions = Versions.of(str(release), f"serves {url}")
        try:
            spread([self.endpoint], "/is_paused", [None])
        except RunError as error:
            if "HTTP 404" not in str(error):
                raise
            raise RunError(
                f"generator 'server': {url} takes no weights: it runs without the development "
                f"routes. Start it so: {START}"
            ) from None
        try:
            self.about()
        except RunError as error:
            raise RunError(
                f"generator 'server': {url} takes no weights: its workers lack didact's extension, "
                f"and didact must be installed where it runs. Start it so: {START} ({error})"
            ) from None
        return versions

    def about(self) -> About:
        """What it says of itself now.

        Raises:
            Unreachable: it is down.
        """
        quick = RemoteEngine(replace(self.endpoint, timeout=min(self.endpoint.timeout, QUICK)))
        said = quick.collective_rpc("didact_about")[0]
        workers = quick._ask("/get_world_size", None)["world_size"]
        return About(said["held"], getattr(torch, said["dtype"]), said["transfer"], int(workers))

    def pause(self) -> None:
        """Requests under way are finished, new ones wait."""
        self._ask("/pause?mode=wait", {})

    def resume(self) -> None:
        """Requests that waited go on."""
        self._ask("/resume", {})

    def collective_rpc(self, method: str, args: Sequence[str] = ()) -> list[Any]:
        """A method of every worker, by name; what each returns."""
        answer = self._ask("/collective_rpc", {"method": method, "args": list(args)})
        return list(answer.get("results", []))

    def init_weight_transfer_engine(self, request: Mapping[str, Any]) -> None:
        self._ask("/init_weight_transfer_engine", request)

    def start_weight_update(self) -> None:
        self._ask("/start_weight_update", {})

    def update_weights(self, request: Mapping[str, Any]) -> None:
        self._ask("/update_weights", request)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._ask(
            "/finish_weight_update", {"weight_version": weight_version} if weight_version else {}
        )

    def reset_prefix_cache(self) -> bool:
        """Whether it is dropped; early releases say nothing when it is."""
        return bool(self._ask("/reset_prefix_cache", {}).get("success", True))

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        return self.endpoint.ask(path, body)
