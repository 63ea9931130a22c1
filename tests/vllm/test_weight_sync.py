"""Ways of weights, with FAKE engines: packed chunks, a file, and what is refused."""

import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from didact.core.backends import vllm_engine, weight_sync
from didact.core.backends.vllm_generator import VllmGenerator
from didact.core.backends.vllm_versions import Versions
from didact.core.backends.weight_sync import InMemory, PackedIpc, ThroughFolder, holding
from didact.core.errors import RunError


def weights():
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5), "b": (7,), "c": (2, 2, 2), "d": (11, 1), "e": (1,)}
    return [(name, torch.randn(shape, generator=draw)) for name, shape in shapes.items()]


def unpacked(chunk, buffer):
    """As vLLM's consumer reads a chunk: views of the buffer, by sizes, dtypes and shapes."""
    size = sum(chunk["tensor_sizes"])
    parts = buffer[:size].split(chunk["tensor_sizes"])
    return [
        (name, part.view(getattr(torch, dtype)).view(shape))
        for name, part, dtype, shape in zip(
            chunk["names"], parts, chunk["dtype_names"], chunk["shapes"], strict=True
        )
    ]


class FakeEngine:
    """FAKE: vLLM's weight transfer. `copies` is what the packed consumer does; without, it keeps
    views until the update is finished, as the unpacked one does."""

    def __init__(self, modern, copies=True):
        self.modern, self.copies = modern, copies
        self.held, self.loaded, self.said = [], {}, []

    def init_weight_transfer_engine(self, request):
        self.said.append(("init", request["init_info"].get("packed", False)))

    def start_weight_update(self):
        self.said.append("start")

    def update_weights(self, request):
        info = request["update_info"]
        assert info.get("packed", False) != self.modern
        self.said.append("update")
        buffer = info["ipc_handles"]["gpu"]
        for name, view in unpacked(info, buffer):
            self.held.append((name, view.clone() if self.copies else view))

    def finish_weight_update(self, weight_version=None):
        self.loaded = {name: value.clone() for name, value in self.held}
        self.said.append(("finish", weight_version))


def ipc(engine, release, bucket=64, dtype=torch.float32):
    return PackedIpc(
        engine,
        Versions.of(release),
        torch.device("cpu"),
        dtype,
        offer=lambda buffer: {"gpu": buffer},
        encode=lambda handles: {"ipc_handles": handles},
        bucket=bucket,
    )


@pytest.mark.parametrize("release", ["0.26.0", "0.27.1", "0.32.0"])
@pytest.mark.parametrize("bucket", [60, 64, 4096])
def test_packed_chunks_bring_every_tensor(release, bucket):
    engine = FakeEngine(modern=release != "0.26.0")
    way = ipc(engine, release, bucket)
    way.open()
    way(weights(), "3")
    assert list(engine.loaded) == ["a", "b", "c", "d", "e"]
    assert all(torch.equal(engine.loaded[name], value) for name, value in weights())
    modern = release != "0.26.0"
    chunks = ["update"] * (1 if bucket == 4096 else 3)
    assert engine.said == [("init", modern), "start", *chunks, ("finish", "3" if modern else None)]


def test_an_engine_that_keeps_views_is_corrupted_by_a_reused_buffer():
    """Why only the packed consumer, which copies, may be used: the trap, shown."""
    engine = FakeEngine(modern=True, copies=False)
    way = ipc(engine, "0.32.0", 64)
    way(weights(), "3")
    assert not torch.equal(engine.loaded["a"], weights()[0][1])


def test_tensors_are_cast_to_the_engines_dtype():
    engine = FakeEngine(modern=True)
    way = ipc(engine, "0.32.0", dtype=torch.bfloat16)
    way(weights(), "3")
    assert all(torch.equal(engine.loaded[n], value.bfloat16()) for n, value in weights())


def test_a_tensor_larger_than_a_bucket_arrives_and_small_ones_are_packed_together():
    engine = FakeEngine(modern=True)
    bucket = holding(8, iter(weights()), torch.float32)
    assert bucket == 60 and holding(8, iter(weights()), torch.bfloat16) == 30
    assert holding(64, iter(weights()), torch.float32) == 64
    way = ipc(engine, "0.32.0", bucket)
    way(iter(weights()), "3")
    assert all(torch.equal(engine.loaded[name], value) for name, value in weights())
    assert engine.said.count("update") == 3, "'a' alone, 'b' and 'c', 'd' and 'e'"


def test_the_weights_are_measured_one_at_a_time():
    alive, most = weakref.WeakSet(), []

    def gathered() -> Iterator:
        for at in range(4):
            value = torch.zeros(2**at)
            alive.add(value)
            most.append(len(alive))
            yield f"{at}", value
            del value

    assert holding(1, gathered(), torch.float32) == 32
    assert max(most) <= 2


@pytest.mark.parametrize(("transport", "bytes_"), [("ipc", 60), ("folder", 8)])
def test_the_generator_gives_cuda_ipc_a_buffer_for_the_largest_tensor(
    monkeypatch, transport, bytes_
):
    """With FAKES of the engine's start and of the way to it."""
    made = SimpleNamespace(
        transport=transport,
        bucket=8,
        dtype=torch.float32,
        learner=SimpleNamespace(weights=lambda: iter(weights())),
        config=SimpleNamespace(save_pretrained=lambda folder: None),
        ends=[2],
        settings=None,
        versions=None,
    )
    engine = SimpleNamespace(
        llm_engine=SimpleNamespace(model_config=SimpleNamespace(max_model_len=9))
    )
    monkeypatch.setattr(vllm_engine, "start", lambda *told: engine)
    monkeypatch.setattr(vllm_engine, "pushes", lambda *told: told)
    VllmGenerator.start(made)
    assert made.push[2:5] == (transport, torch.float32, bytes_)


class FakeCalls:
    """FAKE: an engine that is called by name, as `LLM.collective_rpc`."""

    def __init__(self):
        self.calls, self.got = [], {}

    def collective_rpc(self, method, args=(), kwargs=None):
        self.calls.append(method)
        if method == "reload_weights":
            self.got = dict(kwargs["weights_iterator"])
        if method == "didact_load":
            from safetensors.torch import load_file

            self.got = load_file(args[0])


@pytest.mark.parametrize("way", [InMemory, ThroughFolder])
def test_a_process_gets_every_tensor_and_repairs_its_head(way):
    engine = FakeCalls()
    way(engine)(weights(), "3")
    assert {n: v.tolist() for n, v in engine.got.items()} == {n: v.tolist() for n, v in weights()}
    assert engine.calls in (["reload_weights", "didact_repair"], ["didact_load"])


@pytest.mark.parametrize(
    ("sync", "in_process", "cuda", "tensor_parallel", "way"),
    [
        ("auto", True, True, 1, "memory"),
        ("auto", True, False, 1, "memory"),
        ("auto", False, True, 1, "ipc"),
        ("auto", False, True, 2, "folder"),
        ("auto", False, False, 1, "folder"),
        ("auto", False, False, 2, "folder"),
        ("reload", True, True, 1, "memory"),
        ("reload", False, True, 1, "folder"),
        ("reload", False, True, 2, "folder"),
        ("ipc", False, True, 1, "ipc"),
    ],
)
def test_the_way_follows_from_where_the_engine_is(sync, in_process, cuda, tensor_parallel, way):
    where = {"in_process": in_process, "cuda": cuda, "tensor_parallel": tensor_parallel}
    assert weight_sync.choose(sync, **where) == way


@pytest.mark.parametrize(
    ("in_process", "cuda", "tensor_parallel", "said"),
    [
        (True, False, 1, r"'ipc' needs a GPU; use sync=auto\."),
        (False, False, 2, r"'ipc' needs a GPU; use sync=auto\."),
        (True, True, 1, r"engine in another process.*use sync=auto, or separate_process=true\."),
        (False, True, 2, r"the learner's GPU alone, and tensor_parallel 2 has.*use sync=auto"),
    ],
)
def test_cuda_ipc_that_cannot_work_is_refused(in_process, cuda, tensor_parallel, said):
    where = {"in_process": in_process, "cuda": cuda, "tensor_parallel": tensor_parallel}
    with pytest.raises(RunError, match=said):
        weight_sync.choose("ipc", **where)


class ParallelLMHead(torch.nn.Linear):
    """FAKE: vLLM's output head on a CPU, whose product uses a packed copy of its weight."""

    def __init__(self):
        super().__init__(4, 6, bias=False)
        self.quant_method = self
        self.process_weights_after_loading(self)

    def process_weights_after_loading(self, module):
        self.copy = self.weight.detach().clone()
        self.cpu_linear = lambda x: x @ self.copy.T


def test_a_packed_head_is_packed_again_and_others_are_left_alone():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), ParallelLMHead())
    with torch.no_grad():
        model[1].weight.add_(1.0)
    assert not torch.equal(model[1].copy, model[1].weight)
    assert weight_sync.repair_tied_heads(model) == 1
    assert torch.equal(model[1].copy, model[1].weight)
    assert weight_sync.repair_tied_heads(model[0]) == 0
