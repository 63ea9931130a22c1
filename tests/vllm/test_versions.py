"""What differs between vLLM's releases, each with a FAKE engine of that release's signature."""

from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch

from didact.core.backends import weight_sync
from didact.core.backends.server_nccl import ByNccl
from didact.core.backends.vllm_versions import Versions, installed
from didact.core.errors import RunError
from didact.core.world import Alone

RELEASES = ["0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.2", "0.31.0", "0.32.0"]


@pytest.mark.parametrize("text", ["0.25.1", "0.33.0", "1.0.0", "nightly"])
def test_other_releases_are_refused_with_the_remedy(text):
    with pytest.raises(RunError, match=r"pip install 'vllm>=0\.26,<0\.33'"):
        Versions.of(text)


@pytest.mark.parametrize("text", ["0.32.0+cpu", "0.32.0rc1", "0.32"])
def test_builds_of_a_release_are_that_release(text):
    assert Versions.of(text).release == (0, 32, 0)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("backend", "since"), [("ipc", "0.27.1"), ("nccl", "0.28.0")])
def test_packed_is_said_once_where_the_release_wants_it(release, backend, since):
    versions = Versions.of(release)
    at_init = versions.init_info(backend, {"rank": 0})["init_info"]
    with_chunk = versions.update_info(backend, {"names": ["a"]})["update_info"]
    modern = versions.release >= Versions.of(since).release
    assert at_init == {"rank": 0} | ({"packed": True} if modern else {})
    assert with_chunk == {"names": ["a"]} | ({} if modern else {"packed": True})


class Fake026:
    """FAKE: `LLM` of 0.26, which knows no versions of weights and whose `wake_up` says nothing."""

    def __init__(self):
        self.said = []

    def finish_weight_update(self):
        self.said.append("finish")

    def wake_up(self, tags=None):
        self.said.append(tags)

    def reset_prefix_cache(self):
        return True


class Fake0271(Fake026):
    """FAKE: `LLM` of 0.27.1 to 0.31, which takes a version of the weights."""

    def finish_weight_update(self, weight_version=None):
        self.said.append(weight_version)


class Fake032(Fake0271):
    """FAKE: `LLM` of 0.32, whose `wake_up` says whether the engine is wholly awake."""

    def wake_up(self, tags=None):
        super().wake_up(tags)
        return "kv_cache" in tags


@pytest.mark.parametrize(
    ("release", "fake", "finished"),
    [("0.26.0", Fake026, "finish"), ("0.27.1", Fake0271, "7"), ("0.32.0", Fake032, "7")],
)
def test_each_release_is_spoken_to_by_its_signature(release, fake, finished):
    engine, versions = fake(), Versions.of(release)
    versions.finish(engine, "7")
    versions.wake(engine, ["weights"])
    versions.wake(engine, ["kv_cache"])
    versions.forget_prefixes(engine)
    assert engine.said == [finished, ["weights"], ["kv_cache"]]


def test_an_engine_that_stays_asleep_is_an_error():
    engine = Fake032()
    engine.wake_up = lambda tags: False
    with pytest.raises(RunError, match="wake up"):
        Versions.of("0.32.0").wake(engine, ["kv_cache"])
    Versions.of("0.32.0").wake(engine, ["weights"])


def test_a_prefix_cache_that_stays_is_an_error():
    engine = Fake026()
    engine.reset_prefix_cache = lambda: False
    with pytest.raises(RunError, match="prefix cache"):
        Versions.of("0.26.0").forget_prefixes(engine)


real = pytest.mark.skipif(find_spec("vllm.platforms") is None, reason="vLLM is not installed")
WEIGHTS = [("a", torch.randn(3, 5)), ("b", torch.randn(7))]


def parsed(calls, **classes):
    """What the installed vLLM's own dataclasses make of the requests that were sent."""
    from vllm.distributed.weight_transfer import base

    kinds = {
        "init_info": base.WeightTransferInitRequest,
        "update_info": base.WeightTransferUpdateRequest,
    }
    made = []
    for (request,) in calls:
        (key,) = request
        made.append(classes[key](**getattr(kinds[key](**request), key)))
    return made


@real
def test_the_installed_vllm_takes_what_is_sent_by_ipc(monkeypatch):
    from vllm import LLM, envs
    from vllm.distributed.weight_transfer import ipc_engine

    engine, versions = create_autospec(LLM, instance=True), installed()
    monkeypatch.setitem(vars(envs), "VLLM_ALLOW_INSECURE_SERIALIZATION", True)
    way = weight_sync.PackedIpc(
        engine,
        versions,
        torch.device("cpu"),
        torch.bfloat16,
        offer=lambda buffer: {"uuid": (1, 2)},
        encode=weight_sync.pickled_handles,
        bucket=64,
    )
    way.open()
    way(WEIGHTS, "3")
    calls = [engine.init_weight_transfer_engine, engine.update_weights]
    opened, chunk = parsed(
        [call.args for one in calls for call in one.call_args_list],
        init_info=ipc_engine.IPCWeightTransferInitInfo,
        update_info=ipc_engine.IPCWeightTransferUpdateInfo,
    )
    assert opened.packed
    assert (chunk.names, chunk.shapes) == (["a", "b"], [[3, 5], [7]])
    assert chunk.dtype_names == ["bfloat16"] * 2 and chunk.tensor_sizes == [30, 14]
    assert chunk.ipc_handles == {"uuid": (1, 2)}
    engine.finish_weight_update.assert_called_once_with(weight_version="3")


@real
def test_the_installed_vllm_takes_what_is_sent_by_nccl():
    from vllm.distributed.weight_transfer import nccl_engine

    sent, url = [], "http://127.0.0.1:9/v1"
    engine = SimpleNamespace(  # FAKE: of a server, that keeps what it is sent
        about=lambda: SimpleNamespace(workers=2, held=""),
        init_weight_transfer_engine=lambda request: sent.append((request,)),
        update_weights=lambda request: sent.append((request,)),
        **dict.fromkeys(["pause", "resume", "start_weight_update"], lambda: None),
        **dict.fromkeys(["collective_rpc", "reset_prefix_cache"], lambda *about: None),
        finish_weight_update=lambda weight_version: None,
    )
    servers = SimpleNamespace(
        engines={url: engine},
        versions={url: installed()},
        run="run/",
        each=lambda call: [call(url) or url],
    )
    group = SimpleNamespace(broadcast=lambda tensor, src: None)
    way = ByNccl(servers, torch.float32, torch.device("cpu"), Alone(), 64, lambda *place: group)
    assert way.push(lambda: iter(WEIGHTS), 0) == [url]
    opened, *chunks = parsed(
        sent,
        init_info=nccl_engine.NCCLWeightTransferInitInfo,
        update_info=nccl_engine.NCCLWeightTransferUpdateInfo,
    )
    assert (opened.packed, opened.packed_buffer_size_bytes) == (True, 64)
    assert (opened.rank_offset, opened.world_size) == (1, 3)
    assert [chunk.names for chunk in chunks] == [["a"], ["b"]]
