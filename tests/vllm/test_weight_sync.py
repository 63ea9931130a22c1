"""Ways of weights, with FAKE engines: packed chunks, a file, and what is refused."""

from collections.abc import Iterator

import pytest
import torch

from didact.core.backends import weight_sync
from didact.core.backends.vllm_versions import Versions
from didact.core.backends.weight_sync import InMemory, PackedIpc, ThroughFolder, packed
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
        buffer = info["ipc_handles"]["gpu"]
        for name, view in unpacked(info, buffer):
            self.held.append((name, view.clone() if self.copies else view))

    def finish_weight_update(self, weight_version=None):
        self.loaded = {name: value.clone() for name, value in self.held}
        self.said.append(("finish", weight_version))


def ipc(engine, release, bucket=64, dtype=torch.float32, **settings):
    barriers = []
    way = PackedIpc(
        engine,
        Versions.of(release),
        torch.device("cpu"),
        dtype,
        sender=settings.get("sender", True),
        offer=lambda buffer: {"gpu": buffer},
        gather=lambda own: own,
        barrier=lambda: barriers.append(1),
        encode=weight_sync.plain_handles,
        bucket=bucket,
    )
    return way, barriers


@pytest.mark.parametrize("release", ["0.26.0", "0.27.1", "0.32.0"])
@pytest.mark.parametrize("bucket", [60, 64, 4096])
def test_packed_chunks_bring_every_tensor(release, bucket):
    engine = FakeEngine(modern=release != "0.26.0")
    way, barriers = ipc(engine, release, bucket)
    way.open()
    way(weights(), "3")
    assert list(engine.loaded) == ["a", "b", "c", "d", "e"]
    assert all(torch.equal(engine.loaded[name], value) for name, value in weights())
    modern = release != "0.26.0"
    assert engine.said == [("init", modern), "start", ("finish", "3" if modern else None)]
    chunks = 1 if bucket == 4096 else 3
    assert len(barriers) == 2 * chunks


def test_an_engine_that_keeps_views_is_corrupted_by_a_reused_buffer():
    """Why only the packed consumer, which copies, may be used: the trap, shown."""
    engine = FakeEngine(modern=True, copies=False)
    way, _ = ipc(engine, "0.32.0", 64)
    way(weights(), "3")
    assert not torch.equal(engine.loaded["a"], weights()[0][1])


def test_tensors_are_cast_to_the_engines_dtype():
    engine = FakeEngine(modern=True)
    way, _ = ipc(engine, "0.32.0", dtype=torch.bfloat16)
    way(weights(), "3")
    assert all(torch.equal(engine.loaded[n], value.bfloat16()) for n, value in weights())


def test_ranks_that_do_not_send_still_gather_every_tensor():
    way, barriers = ipc(None, "0.32.0", sender=False)
    seen = []

    def gathered() -> Iterator:
        for name, value in weights():
            seen.append(name)
            yield name, value

    way(gathered(), "3")
    assert len(seen) == 5 and len(barriers) == 6


def test_a_tensor_larger_than_a_chunk_is_refused_by_name():
    with pytest.raises(RunError, match=r"'a' has 60 bytes.*bucket_mib"):
        list(packed(weights(), torch.empty(59, dtype=torch.uint8), torch.float32))


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
    ("sync", "in_process", "cuda", "way"),
    [
        ("auto", True, True, "memory"),
        ("auto", False, True, "ipc"),
        ("auto", False, False, "folder"),
        ("reload", False, True, "folder"),
        ("ipc", True, True, "ipc"),
    ],
)
def test_the_way_follows_from_where_the_engine_is(sync, in_process, cuda, way):
    assert weight_sync.choose(sync, in_process=in_process, cuda=cuda) == way


def test_cuda_ipc_without_cuda_is_refused():
    with pytest.raises(RunError, match="needs a GPU"):
        weight_sync.choose("ipc", in_process=True, cuda=False)


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
