"""The processes of a run: one, or the ranks of torch.distributed."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from didact.core.errors import RunError, Stranded

T = TypeVar("T")
U = TypeVar("U")
GPU_BACKEND = "cpu:gloo,cuda:nccl"
"""By which library torch.distributed sends tensors of either device."""


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def map(self, call: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> Sequence[U]:
        return list(call(items))

    def barrier(self) -> None:
        """Nobody to wait for."""

    def beside(self) -> Alone:
        """Itself: there is nobody to talk to at the same time."""
        return self


@dataclass(frozen=True)
class Ranks:
    """The processes of an initialised torch.distributed group.

    Attributes:
        group: whose collectives `map` and `barrier` use; None: the default one.
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None = None

    def map(self, call: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> Sequence[U]:
        """Rank r calls on items r, r + size, …; everybody gets every result, in order.

        A call that raises on one rank raises on all, so that none waits for ever; `Stranded` on
        this one alone, whose end the launcher then tells the others.
        """
        mine: list[U] = []
        error: Exception | None = None
        try:
            mine = list(call(items[self.rank :: self.size]))
        except Stranded:
            raise
        except Exception as caught:
            error = caught
        said = None if error is None else f"{type(error).__name__}: {error}"
        everyone: list[tuple[list[U], str | None]] = [([], None)] * self.size
        dist.all_gather_object(everyone, (mine, said), group=self.group)
        if error is not None:
            raise error
        for rank, (_, failure) in enumerate(everyone):
            if failure is not None:
                raise RunError(f"rank {rank} failed: {failure}")
        return [everyone[at % self.size][0][at // self.size] for at in range(len(items))]

    def barrier(self) -> None:
        dist.barrier(group=self.group)

    def beside(self) -> Ranks:
        """The same processes with collectives of their own, for a second thread. All ranks call."""
        return Ranks(self.rank, self.size, dist.new_group(backend="gloo"))


def current() -> Alone | Ranks:
    """The world this process was launched into (`torchrun` sets the variables).

    With GPUs, tensors on them go by NCCL, and objects and barriers by gloo: nothing is sent before
    a process has its GPU, and none waits on another's. No device is bound to the group: torch would
    then take barriers to the GPU, and split NCCL's communicator for each group that is made.
    Written to torch's documented interface; not run on a GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            own_gpu()
            backend = GPU_BACKEND
        dist.init_process_group(backend)
    return Ranks(dist.get_rank(), dist.get_world_size())


def own_gpu() -> int:
    """The GPU of this process, by its rank on this machine; from now on torch's current one."""
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise RunError(
            f"LOCAL_RANK {local} has no GPU: this process sees {count}. Start as many processes on "
            f"a machine as it has GPUs (torchrun --nproc-per-node={count}) and let each see all of "
            f"them (CUDA_VISIBLE_DEVICES), or hide them all for a run on the CPU "
            f"(CUDA_VISIBLE_DEVICES=)."
        )
    torch.cuda.set_device(local)
    return local


def leave(code: int) -> NoReturn:
    """End this process with an exit code; one that has process groups, without Python's clean-up.

    A thread of gloo that lets go of a Python object while the interpreter goes down aborts the
    process: seen in every second exit right after a collective.
    """
    if dist.is_initialized():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
