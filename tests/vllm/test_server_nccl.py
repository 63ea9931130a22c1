"""Weights over NCCL into FAKE vLLM servers of each release, which die or fail at each call."""

import pytest
import torch
from fake_vllm import FakeGroup, FakeVllm, serving, weights

from didact.core.backends.endpoint import Endpoint, Unreachable
from didact.core.backends.remote_engine import RemoteEngine
from didact.core.backends.server_nccl import ByNccl, _free_ports
from didact.core.backends.servers import Servers
from didact.core.errors import RunError
from didact.core.world import Alone

RELEASES = ["0.26.0", "0.27.1", "0.28.0", "0.32.0"]


@pytest.fixture
def serve():
    with serving() as begin:
        yield begin


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


def test_servers_are_met_at_ports_of_their_own():
    ports = _free_ports([f"{at}" for at in range(200)])
    assert len(set(ports.values())) == 200


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


CALLS = [
    "didact_about",
    "get_world_size",
    "init_weight_transfer_engine",
    "pause",
    "unmark",
    "start_weight_update",
    "update_weights",
    "finish_weight_update",
    "reset_prefix_cache",
    "didact_mark",
    "resume",
]


@pytest.mark.parametrize("how", ["500", "dies"])
@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_fails_in_a_push_is_named_and_left_out_until_the_next(
    serve, caplog, call, how
):
    fakes = [FakeVllm(), FakeVllm()]
    way, endpoints, _ = by_nccl(serve, *fakes)
    way.push(weights, 0)
    if call == "init_weight_transfer_engine":
        fakes[1].held = ""  # as after a restart
    fakes[1].failing[call] = how
    group = way.groups[endpoints[1].url]
    assert way.push(weights, 1) == [endpoints[0].url]
    down = how == "dies" and call in CALLS[:3]
    assert (endpoints[1].url in way.lost) == group.destroyed == (not down)
    assert f"server {endpoints[1].url}: " in caplog.text
    assert all(torch.equal(fakes[0].loaded.pop(name), value) for name, value in weights())
    up = [fake for fake in fakes if not fake.dead]
    assert not any(fake.paused or fake.active for fake in up)
    fakes[1].dead = fakes[1].paused = fakes[1].active = False
    fakes[1].held = "" if how == "dies" else fakes[1].held
    if (call, how) != ("resume", "500"):  # all else was done by then
        with pytest.raises(Unreachable, match="next update"):
            way.admit(endpoints[1])
    assert way.push(weights, 2) == [each.url for each in endpoints]
    assert all(torch.equal(fakes[1].loaded.pop(name), value) for name, value in weights())
    assert [fake.held for fake in fakes] == ["run/2"] * 2


@pytest.mark.parametrize("how", ["500", "dies"])
def test_a_push_that_loses_every_server_names_them_and_the_way_on(serve, how):
    fakes, left = [FakeVllm(), FakeVllm()], []
    way, endpoints, _ = by_nccl(serve, *fakes)
    way.push(weights, 0)
    fakes[0].failing["pause"] = fakes[1].failing["update_weights"] = how

    def gathered():
        yield from weights()
        left.append("nothing, so that no rank waits in a gather")

    said = rf"{endpoints[0].url}: .*; {endpoints[1].url}: .*\. Start them again.*--resume"
    with pytest.raises(RunError, match=said):
        way.push(gathered, 1)
    assert left and not any(fake.paused or fake.active for fake in fakes if not fake.dead)


def test_a_learner_that_fails_in_a_push_leaves_no_server_waiting(serve):
    fake = FakeVllm()
    way, _, _ = by_nccl(serve, fake)
    way.push(weights, 0)

    def broken():
        yield from weights()[:3]
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        way.push(broken, 1)
    assert not fake.paused and not fake.active and not fake.held
