"""Weights into vLLM servers, with FAKE development routes: NCCL of each release, refusals."""

import json
import queue
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from didact.core.backends import server_sync
from didact.core.backends.endpoint import Endpoint, Unreachable
from didact.core.backends.remote_engine import NCCL, START, RemoteEngine
from didact.core.backends.server_generator import ServerGenerator
from didact.core.backends.server_nccl import ByNccl
from didact.core.backends.servers import Servers
from didact.core.errors import RecipeError, RunError
from didact.core.world import Alone

RELEASES = ["0.26.0", "0.27.1", "0.28.0", "0.32.0"]


class FakeVllm:
    """FAKE: the routes of a vLLM server, with what each release wants to be told.

    Args:
        release: which.
        missing: "routes" or "extension", as if started without.
        transfer: the backend it was started for.
    """

    def __init__(self, release="0.32.0", missing="", transfer="nccl"):
        self.release, self.missing, self.transfer = release, missing, transfer
        self.modern = tuple(map(int, release.split("."))) >= (0, 28)
        self.held, self.said, self.loaded, self.wire = "", [], {}, queue.Queue()
        self.packing, self.port, self.told = None, 0, set()

    def post(self, path, body):
        path, _, query = path.partition("?")
        if path == "/version":
            return {"version": self.release}
        if path == "/v1/models":
            return {"data": [{"id": "tiny", "max_model_len": 64}]}
        if self.missing == "routes":
            return 404
        answer = getattr(self, path.strip("/"))(**body)
        self.said.append(path.strip("/") + ("?" + query if query else ""))
        return answer

    def is_paused(self):
        return {"is_paused": False}

    def get_world_size(self):
        return {"world_size": 2}

    def collective_rpc(self, method, args):
        if self.missing == "extension":
            return 500
        if method == "didact_about":
            about = {"held": self.held, "dtype": "float32", "transfer": self.transfer}
            return {"results": [about] * 2}
        assert method == "didact_mark"
        self.held = args[0]
        return {"results": [None, None]}

    def pause(self):
        return {}

    def resume(self):
        return {}

    def init_weight_transfer_engine(self, init_info):
        place = {"master_address", "master_port", "rank_offset", "world_size"}
        packing = {"packed", "packed_buffer_size_bytes"} if self.modern else set()
        assert set(init_info) == place | packing
        assert (init_info["rank_offset"], init_info["world_size"]) == (1, 3)
        self.packing, self.port = init_info if self.modern else None, init_info["master_port"]
        return {}

    def start_weight_update(self):
        return {}

    def update_weights(self, update_info):
        """As the packed consumer reads: names until a buffer is full, then one broadcast."""
        packing = self.packing or update_info
        assert packing["packed"]
        self.told.add(packing["packed_buffer_size_bytes"])
        about = zip(*(update_info[k] for k in ("names", "dtype_names", "shapes")), strict=True)
        parts = [(n, getattr(torch, d), s) for n, d, s in about]
        sizes = [torch.Size(s).numel() * d.itemsize for _, d, s in parts]
        assert sum(sizes) <= packing["packed_buffer_size_bytes"], "else it would be two broadcasts"
        got = self.wire.get(timeout=5)
        assert len(got) == sum(sizes)
        for (name, dtype, shape), piece in zip(parts, got.split(sizes), strict=True):
            self.loaded[name] = piece.view(dtype).view(shape)
        return {}

    def finish_weight_update(self, **told):
        assert set(told) == (set() if self.release == "0.26.0" else {"weight_version"})
        return {}

    def reset_prefix_cache(self):
        return None  # an empty body, as of early releases


def handler(vllm):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(vllm.post(self.path, {}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(vllm.post(self.path, body))

        def reply(self, answer):
            status = answer if isinstance(answer, int) else 200
            data = b"" if answer is None or status != 200 else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            """Quiet."""

    return Handler


@pytest.fixture
def serve():
    """Serves a FAKE vLLM; returns its endpoint."""
    with ExitStack() as stack:

        def begin(vllm):
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler(vllm))
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            vllm.stop = server.shutdown
            return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", wait=0.5, pause=0.01)

        yield begin


class FakeGroup:
    """FAKE communicator: a broadcast reaches the servers that have joined at its port."""

    def __init__(self, fakes, port):
        self.fakes, self.port = fakes, port

    def broadcast(self, tensor, src):
        assert src == 0 and tensor.dtype == torch.uint8
        for fake in self.fakes:
            if fake.port == self.port:
                fake.wire.put(tensor.clone())


def weights():
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5), "b": (7,), "c": (2, 2, 2), "d": (11, 1), "e": (1,)}
    return [(name, torch.randn(shape, generator=draw)) for name, shape in shapes.items()]


def by_nccl(serve, *fakes, bucket=64):
    endpoints = [serve(fake) for fake in fakes]
    engines = {each.url: RemoteEngine.at(each) for each in endpoints}
    versions = {url: engine.check() for url, engine in engines.items()}
    connected = []

    def connect(address, port, size):
        connected.append((address, size))
        return FakeGroup(fakes, port)

    together = Servers(engines, versions, "run/", 0.5)
    way = ByNccl(together, torch.float32, torch.device("cpu"), Alone(), bucket, connect)
    return way, endpoints, connected


@pytest.mark.parametrize("release", RELEASES)
def test_chunks_over_nccl_bring_every_tensor_to_every_server(serve, release):
    fakes = [FakeVllm(release), FakeVllm(release)]
    way, endpoints, connected = by_nccl(serve, *fakes)
    for version in (0, 1):
        assert way.push(weights, version) == [each.url for each in endpoints]
        for fake in fakes:
            assert all(torch.equal(fake.loaded.pop(name), value) for name, value in weights())
            assert fake.held == f"run/{version}"
    assert connected == [("127.0.0.1", 3)] * 2, "once for each server"
    said = [word for word in fakes[0].said if word not in ("collective_rpc", "get_world_size")]
    assert (
        said[2:]
        == [
            "pause?mode=wait",
            "start_weight_update",
            *["update_weights"] * 3,
            "finish_weight_update",
            "reset_prefix_cache",
            "resume",
        ]
        * 2
    )


@pytest.mark.parametrize("release", RELEASES)
def test_a_tensor_larger_than_a_bucket_goes_over_nccl_between_small_ones(serve, release):
    fake, passes = FakeVllm(release), []
    way, _, _ = by_nccl(serve, fake, bucket=8)
    for version in (0, 1):
        way.push(lambda: passes.append(1) or iter(weights()), version)
        assert all(torch.equal(fake.loaded.pop(name), value) for name, value in weights())
    assert fake.told == {60}, "servers know the size of the largest, 'a' with 60 bytes"
    assert len(passes) == 3, "sizes are looked at once"
    assert fake.said.count("update_weights") == 2 * 3, "small ones are packed together"


def test_a_server_that_was_restarted_waits_for_the_next_push_over_nccl(serve):
    fakes = [FakeVllm(), FakeVllm()]
    way, endpoints, connected = by_nccl(serve, *fakes)
    way.push(weights, 0)
    way.admit(endpoints[1])
    fakes[1].held = ""
    with pytest.raises(Unreachable, match="next update"):
        way.admit(endpoints[1])
    way.push(weights, 1)
    assert len(connected) == 3 and fakes[1].held == "run/1"
    way.admit(endpoints[1])


def test_a_server_that_is_down_is_left_out_and_one_must_be_up(serve):
    fakes = [FakeVllm(), FakeVllm()]
    way, endpoints, _ = by_nccl(serve, *fakes)
    way.servers.engines[endpoints[1].url] = RemoteEngine.at(Endpoint("http://127.0.0.1:9/v1"))
    assert way.push(weights, 0) == [endpoints[0].url]
    way.servers.engines[endpoints[0].url] = way.servers.engines[endpoints[1].url]
    with pytest.raises(RunError, match=r"no server took the weights for 0.5 s.*--resume"):
        way.push(weights, 1)


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        ({"missing": "routes"}, "without the development routes.*VLLM_SERVER_DEV_MODE=1 vllm"),
        ({"missing": "extension"}, "lack didact's extension.*--worker-extension-cls didact"),
        ({"release": "0.33.1"}, r"vLLM 0.33.1 serves .*0.26 to 0.32"),
    ],
)
def test_a_server_that_takes_no_weights_is_refused_with_the_way_to_start_it(serve, fake, said):
    url = serve(FakeVllm(**fake)).url
    with pytest.raises(RunError, match=said):
        ServerGenerator(SimpleNamespace(eos_token_id=2), url=url, sync="folder")


def test_weights_over_nccl_need_gpus_here_and_a_server_started_for_them(serve, monkeypatch):
    endpoint = serve(FakeVllm(transfer=""))
    with pytest.raises(RunError, match="needs a GPU here; use sync=folder"):
        server_sync.opened("nccl", [endpoint], Alone(), None, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RunError, match=r"--weight-transfer-config '\{\"backend\": \"nccl\"\}'"):
        server_sync.opened("nccl", [endpoint], Alone(), None, 64)


def test_servers_must_serve_one_model_and_the_folder_must_exist(serve):
    urls = [serve(FakeVllm()).url]
    tokenizer = SimpleNamespace(eos_token_id=2)
    with pytest.raises(RunError, match="serves tiny, not 'other'"):
        ServerGenerator(tokenizer, url=urls, fixed=True, served="other")
    with pytest.raises(RecipeError, match="no folder /nowhere"):
        ServerGenerator(tokenizer, url=urls, sync="folder", folder="/nowhere")


def test_the_documentation_starts_a_server_as_the_messages_do():
    page = (Path(__file__).parents[2] / "docs" / "machines.md").read_text()
    assert START in page and NCCL in page
