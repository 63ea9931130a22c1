"""Memory of a device lent out: tensors that wait on the host while nobody reads them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, UntypedStorage


class Shelf:
    """Keeps the values of resting tensors in host memory, pinned if the device is a GPU.

    A resting tensor stays the same object, and so do all views of it: only its storage is emptied,
    and filled again on `wake`. In between it must not be touched. On a CPU the values really move
    too, so what holds there holds for a GPU.

    Args:
        device: whose memory is lent out; tensors elsewhere stay as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: dict[int, tuple[UntypedStorage, Tensor]] = {}
        self.blank: list[tuple[UntypedStorage, int]] = []
        self.resting = False

    def rest(self, tensors: Iterable[Tensor], blank: Iterable[Tensor] = ()) -> None:
        """Copy to the host, then give the memory back to the device.

        Args:
            blank: tensors that rest without being copied, and come back as zeros.
        """
        if self.resting:
            return
        self.kept = {
            key: (storage, self._copied(storage, self.kept.get(key)))
            for key, storage in self._storages(tensors).items()
        }
        self.blank = [(storage, storage.nbytes()) for storage in self._storages(blank).values()]
        self.resting = True
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for storage, _ in (*self.kept.values(), *self.blank):
            storage.resize_(0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _storages(self, tensors: Iterable[Tensor]) -> dict[int, UntypedStorage]:
        """Those on the device, each once."""
        every = (tensor.untyped_storage() for tensor in tensors)
        here = (one for one in every if one.device.type == self.device.type and one.resizable())
        return {storage._cdata: storage for storage in here}

    def _copied(
        self, storage: UntypedStorage, before: tuple[UntypedStorage, Tensor] | None
    ) -> Tensor:
        """The bytes of a storage, in the host memory they had the last time if there is any."""
        size = storage.nbytes()
        if before is not None and before[1].numel() == size:
            host = before[1]
        else:
            host = torch.empty(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return host.copy_(_bytes(storage), non_blocking=True)

    def wake(self) -> None:
        """Bring everything back to where it was."""
        if not self.resting:
            return
        for storage, host in self.kept.values():
            storage.resize_(host.numel())
            _bytes(storage).copy_(host, non_blocking=True)
        for storage, size in self.blank:
            storage.resize_(size)
            _bytes(storage).zero_()
        self.resting = False

    def copied(self, tensor: Tensor) -> Tensor:
        """A copy of its values on the host; one that rests goes on to rest."""
        kept = self.kept.get(tensor.untyped_storage()._cdata) if self.resting else None
        if kept is None:
            return tensor.detach().to("cpu", copy=True)
        values = torch.empty(0, dtype=tensor.dtype).set_(
            kept[1].untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        return values.clone()


def _bytes(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
