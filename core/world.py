"""The processes of a run: one, or the ranks of torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def map(self, call: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> Sequence[U]:
        return list(call(items))

    def barrier(self) -> None:
        """Nobody to wait for."""


@dataclass(frozen=True)
class Ranks:
    """The processes of an initialised torch.distributed group."""

    rank: int
    size: int

    def map(self, call: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> Sequence[U]:
        """Rank r calls on items r, r + size, …; everybody gets every result, in order."""
        mine = list(call(items[self.rank :: self.size]))
        stripes: list[list[U]] = [[] for _ in range(self.size)]
        dist.all_gather_object(stripes, mine)
        out: list[U | None] = [None] * len(items)
        for rank, stripe in enumerate(stripes):
            out[rank :: self.size] = stripe
        return [item for item in out if item is not None]

    def barrier(self) -> None:
        dist.barrier()


def current() -> Alone | Ranks:
    """The world this process was launched into (`torchrun` sets the variables)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    if not dist.is_initialized():
        import torch

        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())
