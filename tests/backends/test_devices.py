"""Start-up on GPUs, with fakes of torch.cuda and the driver: the order of calls, the refusals."""

import inspect
from functools import partial

import pytest
import torch
import torch.distributed as dist

from didact.core import world
from didact.core.backends import driver, engines
from didact.core.errors import RunError


class FakeCuda:
    """FAKE of torch.cuda and torch.distributed on a machine with GPUs; it records the calls."""

    def __init__(self, monkeypatch, gpus, rank, ranks):
        self.calls = []
        for name, value in {"LOCAL_RANK": rank, "WORLD_SIZE": ranks}.items():
            monkeypatch.setenv(name, str(value))
        self.real = inspect.signature(dist.init_process_group)
        self.made = False
        groups = {
            "init_process_group": self.init,
            "is_initialized": lambda: self.made,
            "get_rank": lambda: rank,
            "get_world_size": lambda: ranks,
        }
        for name, call in groups.items():
            monkeypatch.setattr(dist, name, call)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", self.calls.append)

    def init(self, *given, **named):
        self.calls.append(dict(self.real.bind(*given, **named).arguments))
        self.made = True


def test_a_process_takes_its_gpu_before_the_group_is_made(monkeypatch):
    cuda = FakeCuda(monkeypatch, gpus=4, rank=3, ranks=4)
    assert world.current() == world.Ranks(3, 4) == world.current()
    device, group = cuda.calls
    assert device == 3 and group == {"backend": "cpu:gloo,cuda:nccl"}
    assert engines.device("auto") == torch.device("cuda", 3)


def test_without_gpus_the_group_is_gloos_and_no_device_is_set(monkeypatch):
    cuda = FakeCuda(monkeypatch, gpus=0, rank=1, ranks=2)
    assert world.current() == world.Ranks(1, 2)
    (group,) = cuda.calls
    assert group == {"backend": "gloo"}


@pytest.mark.parametrize("ask", [world.current, partial(engines.device, "auto")])
def test_more_processes_than_gpus_are_refused_before_anything_is_started(monkeypatch, ask):
    cuda = FakeCuda(monkeypatch, gpus=2, rank=2, ranks=4)
    with pytest.raises(RunError, match=r"LOCAL_RANK 2 has no GPU: .* sees 2\..*per-node=2") as told:
        ask()
    assert cuda.calls == [] and "\n" not in str(told.value)


def test_torch_reads_the_backend_as_gloo_for_objects_and_nccl_for_gpus():
    parsed = dist.BackendConfig(dist.Backend(world.GPU_BACKEND)).get_device_backend_map()
    assert parsed == {"cpu": "gloo", "cuda": "nccl"}


def lost_gpu(monkeypatch, tmp_path, *, built="13.0", smi=None, module="", shown=None):
    """FAKE machine: torch built for CUDA finds no GPU; a driver says its version, or there is none.

    Args:
        smi: what nvidia-smi prints; None if it is not installed.
        module: what the kernel says of the driver.
        shown: CUDA_VISIBLE_DEVICES, if set.
    """
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(driver, "KERNEL", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if smi is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{smi}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    if module:
        (tmp_path / "version").write_text(module)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)


SMI = "| NVIDIA-SMI {0}   Driver Version: {0}   CUDA Version: {1} |"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 2023\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n"


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (
            {"smi": SMI.format("550.54", "12.4")},
            "CUDA 13.0, the driver 550.54 serves up to 12.4; update the driver, or install torch",
        ),
        (
            {"smi": SMI.format("580.65", "13.0")},
            r"driver \(580.65\) is here, .* see what nvidia-smi",
        ),
        ({"module": CLOSED}, r"driver \(535.129.03\) is here, but torch finds no GPU"),
        ({"module": OPEN, "shown": "0,1"}, r"driver \(550.54.14\) is here"),
        ({"smi": "NVIDIA-SMI has failed"}, r"driver \(\?\) is here"),
    ],
)
@pytest.mark.parametrize("ask", [engines.device, engines.memory])
def test_no_run_goes_to_the_cpu_unawares(monkeypatch, tmp_path, machine, said, ask):
    lost_gpu(monkeypatch, tmp_path, **machine)
    with pytest.raises(RunError, match=said + r".* device: cpu in learner and generator") as told:
        ask("auto")
    assert "\n" not in str(told.value)
    assert engines.device("cpu") == torch.device("cpu") and engines.memory("cpu")[0] == "CPU"


@pytest.mark.parametrize(
    "machine",
    [
        {},
        {"built": None, "module": OPEN},
        {"module": OPEN, "shown": ""},
        {"module": OPEN, "shown": "-1"},
    ],
)
def test_without_a_driver_or_cuda_or_with_all_gpus_hidden_auto_is_the_cpu(
    monkeypatch, tmp_path, machine
):
    lost_gpu(monkeypatch, tmp_path, **machine)
    assert engines.device("auto") == torch.device("cpu")
