"""Start-up on GPUs, with fakes of torch.cuda and the driver: the order of calls, the refusals."""

import inspect
from functools import partial

import pytest
import torch
import torch.distributed as dist

from didact.core import world
from didact.core.backends import engines
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
