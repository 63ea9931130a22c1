"""The NVIDIA driver of this machine, and why torch may find no GPU beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

KERNEL = Path("/proc/driver/nvidia/version")
"""Where a loaded driver says its version, in containers too."""


def driver() -> tuple[str, str]:
    """The NVIDIA driver's version and the newest CUDA that it serves; "?" or "" if not known.

    As `nvidia-smi` says, else the kernel. Both are "" without a driver.
    """
    said, module = _nvidia_smi(), KERNEL.read_text() if KERNEL.exists() else ""
    if said is None and not module:
        return "", ""
    version = re.search(r"Driver Version:\s*([\d.]+)", said or "")
    version = version or re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", module)
    served = re.search(r"CUDA Version:\s*([\d.]+)", said or "")
    return version[1] if version else "?", served[1] if served else ""


def _nvidia_smi() -> str | None:
    """What it prints; None if it is not installed."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        return subprocess.run(
            ["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def hidden(variables: Mapping[str, str]) -> bool:
    """Whether these environment variables hide all GPUs on purpose."""
    return variables.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def outdated(cuda: str, driver: str, served: str) -> str:
    """What to say if the driver is too old for what torch is built for, else "".

    Args:
        cuda: what torch is built for, "" for the CPU.
        driver, served: as `driver` gives them.
    """
    if not cuda or not served or Version(cuda).major <= Version(served).major:
        return ""
    return (
        f"torch is built for CUDA {cuda}, the driver {driver} serves up to {served}; update the "
        f"driver, or install torch for CUDA {Version(served).major}."
    )


def no_gpu(cuda: str, driver: str, served: str) -> str:
    """What to say of a torch for CUDA that finds no GPU though there is a driver."""
    return outdated(cuda, driver, served) or (
        f"torch is built for CUDA {cuda} and an NVIDIA driver ({driver}) is here, but torch finds "
        f"no GPU; see what nvidia-smi says, and whether this job or container was given a GPU."
    )
