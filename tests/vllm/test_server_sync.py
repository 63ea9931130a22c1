"""Ways of weights into vLLM servers, with FAKE ones: what is refused, and a server's failure."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_vllm import FakeVllm, serving, weights

from didact.core.backends import server_sync
from didact.core.backends.remote_engine import NCCL, START
from didact.core.backends.server_generator import ServerGenerator
from didact.core.errors import RecipeError, RunError
from didact.core.world import Alone


@pytest.fixture
def serve():
    with serving() as begin:
        yield begin


@pytest.mark.parametrize("call", ["didact_load", "reset_prefix_cache"])
def test_a_server_that_cannot_read_its_weights_does_not_stay_paused(serve, tmp_path, call):
    fake = FakeVllm()
    endpoint = serve(fake)
    way = server_sync.opened("folder", [endpoint], Alone(), str(tmp_path), 64)
    way.push(weights, 0)
    fake.failing[call] = "500"
    with pytest.raises(RunError, match=r"server http.*HTTP 500"):
        way.push(weights, 1)
    assert "resume" in fake.said and not fake.paused


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


def missing(name):
    raise metadata.PackageNotFoundError(name)


def test_weights_over_nccl_need_gpus_here_and_a_server_started_for_them(serve, monkeypatch):
    endpoint = serve(FakeVllm(transfer=""))
    with pytest.raises(RunError, match="needs a GPU here; use sync=folder"):
        server_sync.opened("nccl", [endpoint], Alone(), None, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(RunError, match=r"needs vLLM here too.*'didact\[gpu\]', or use sync=folder"):
        server_sync.opened("nccl", [endpoint], Alone(), None, 64)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(version="0.32.0"))
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
