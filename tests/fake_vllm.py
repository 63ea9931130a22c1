"""A FAKE vLLM server with the development routes of each release, and a FAKE communicator."""

import queue
from contextlib import ExitStack, contextmanager

import torch
from fake_http import Answers, running

from didact.core.backends.endpoint import Endpoint


class FakeVllm:
    """FAKE: the routes of a vLLM server, with what each release wants to be told.

    An update that fails is over, and none begins in another, as in 0.32. `failing` maps the next
    call of a route or worker's method to "500", or "dies": then it answers nothing more.

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
        self.failing, self.dead, self.paused, self.active = {}, False, False, False

    def post(self, path, body):
        path, _, query = path.partition("?")
        if path == "/version":
            return {"version": self.release}
        if path == "/v1/models":
            return {"data": [{"id": "tiny", "max_model_len": 64}]}
        if self.missing == "routes":
            return 404
        called = body["method"] if "method" in body else path.strip("/")
        how = self.failing.pop("unmark" if body.get("args") == [""] else called, "")
        self.dead = self.dead or how == "dies"
        if self.dead:
            return None
        if how:
            self.active = self.active and called != "update_weights"
            return 500
        answer = getattr(self, path.strip("/"))(**body)
        self.said.append(path.strip("/") + ("?" + query if query else ""))
        return answer

    def is_paused(self):
        return {"is_paused": False}

    def get_world_size(self):
        return {"world_size": 2}

    def collective_rpc(self, method, args):
        if method == "didact_load":
            self.held = args[1]
            return {"results": [None, None]}
        if self.missing == "extension":
            return 500
        if method == "didact_about":
            about = {"held": self.held, "dtype": "float32", "transfer": self.transfer}
            return {"results": [about] * 2}
        assert method == "didact_mark"
        self.held = args[0]
        return {"results": [None, None]}

    def pause(self):
        self.paused = True
        return {}

    def resume(self):
        self.paused = False
        return {}

    def init_weight_transfer_engine(self, init_info):
        place = {"master_address", "master_port", "rank_offset", "world_size"}
        packing = {"packed", "packed_buffer_size_bytes"} if self.modern else set()
        assert set(init_info) == place | packing
        assert (init_info["rank_offset"], init_info["world_size"]) == (1, 3)
        self.packing, self.port = init_info if self.modern else None, init_info["master_port"]
        self.wire = queue.Queue()
        return {}

    def start_weight_update(self):
        if self.active:
            return 500
        self.active = True
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
        assert set(told) <= (set() if self.release == "0.26.0" else {"weight_version"})
        if not self.active:
            return 500
        self.active = False
        return {}

    def reset_prefix_cache(self):
        return None  # an empty body, as of early releases


def handler(vllm):
    class Handler(Answers):
        def do_GET(self):
            self.reply(vllm.post(self.path, {}))

        def do_POST(self):
            self.reply(vllm.post(self.path, self.body()))

        def reply(self, answer):
            if vllm.dead:
                return
            refused = isinstance(answer, int)
            self.send(None if refused else answer, answer if refused else 200)

    return Handler


@contextmanager
def serving():
    """How to serve a FAKE vLLM: gives its endpoint, until the end."""
    with ExitStack() as stack:

        def begin(vllm):
            server = stack.enter_context(running(handler(vllm)))
            vllm.stop = server.shutdown
            return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", wait=0.5, pause=0.01)

        yield begin


class FakeGroup:
    """FAKE communicator: a broadcast reaches the servers that have joined at its port."""

    def __init__(self, fakes, port):
        self.fakes, self.port, self.destroyed = fakes, port, False

    def broadcast(self, tensor, src):
        assert src == 0 and tensor.dtype == torch.uint8 and not self.destroyed
        for fake in self.fakes:
            if fake.port == self.port:
                fake.wire.put(tensor.clone())

    def destroy(self):
        self.destroyed = True


def weights():
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5), "b": (7,), "c": (2, 2, 2), "d": (11, 1), "e": (1,)}
    return [(name, torch.randn(shape, generator=draw)) for name, shape in shapes.items()]
