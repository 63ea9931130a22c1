"""A small model that vLLM serves on a CPU, one learner, and real servers for the whole session."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from didact.core.backends import remote_engine
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.backends.vllm_engine import described
from didact.core.types import Request

TINY = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
"""What the servers serve: weights that nobody has pushed are random."""
RECIPE = """\
extends: {method}
base: !remove
steps: 3
models: {{policy: {{tokenizer: characters, config: {config}}}}}
generator: {{use: vllm, tensors: true}}
sampler: {{use: ordered, prompts: 4}}
sampling: {{max_tokens: 12}}
rewards: {{short: {{use: linear_length, per: 10}}}} # so that answers of a model of noise differ
evaluation: !remove
"""
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="session")
def spec():
    """Heads of 32: vLLM's attention on a CPU has no smaller ones. Tied embeddings."""
    small = quickstart_model() | {"num_hidden_layers": 2, "head_dim": 32}
    return ModelSpec(config=small, tokenizer="characters")


@pytest.fixture(scope="session")
def tokenizer(spec):
    return load_tokenizer(spec)


@pytest.fixture(scope="session")
def learner(spec, tokenizer):
    """Weights far from their start, so that distributions are not nearly uniform."""
    made = load_model(spec, tokenizer)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.08)
    return TorchLearner(made, tokenizer, {"main": OptimizerSpec(lr=1e-3)})


@pytest.fixture(scope="session")
def kept():
    """Engines that stay: one that goes takes what all of a process share in vLLM with it."""
    return []


@pytest.fixture(scope="session")
def _engines(spec, tokenizer, learner):
    """Real engines in this process, one for each dtype that is asked for."""
    from didact.core.backends.vllm_generator import VllmGenerator

    @cache
    def engine(dtype):
        before = torch.random.get_rng_state()
        made = VllmGenerator(tokenizer, spec, max_model_len=256, dtype=dtype, probe=None)
        made.resume(learner, 0)
        assert torch.equal(torch.random.get_rng_state(), before), "starting it drew random numbers"
        return made

    return engine


@pytest.fixture
def serving(_engines, learner):
    """An engine with the learner's weights, as version 0, without a probe."""

    def served(dtype):
        engine = _engines(dtype)
        engine.probe, engine.tensors, engine.otherwise = None, False, set()
        engine.push = replace(engine.push, repair=True)
        engine.resume(learner, 0)
        return engine

    return served


@pytest.fixture
def changed(learner):
    """The learner with other weights, for a while."""

    @contextmanager
    def other(by):
        kept = [p.detach().clone() for p in learner.params]
        draw = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in learner.params:
                p.add_(torch.randn(p.shape, generator=draw) * by)
        try:
            yield learner
        finally:
            with torch.no_grad():
                for p, value in zip(learner.params, kept, strict=True):
                    p.copy_(value)

    return other


@pytest.fixture
def requests():
    draw = torch.Generator().manual_seed(1)
    sizes = torch.randint(1, 30, (24,), generator=draw).tolist()
    return [
        Request(torch.randint(3, 99, (size,), generator=draw), seed=2**62 + at)
        for at, size in enumerate(sizes)
    ]


def recipe_of(folder, method, **changes):
    """A recipe on the TINY model, as a file."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(method=method, config=json.dumps(TINY | changes)))
    return path


def train(folder, method, *overrides, launcher=None, **changes):
    """Train in processes of their own, by the command line."""
    command = "from didact.configs.cli import main; main()"
    start = [sys.executable, "-c", command] if launcher is None else launcher
    path = recipe_of(folder, method, **changes)
    return subprocess.run(
        [*start, "train", str(path), *overrides, "--out", str(folder / "run")],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def steps_of(folder):
    """The metrics of a run, step by step."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def runs():
    """How to write, train and read recipes."""
    return SimpleNamespace(recipe_of=recipe_of, train=train, steps_of=steps_of)


@pytest.fixture(scope="session")
def colocated(tmp_path_factory):
    """Three steps of GRPO with an engine inside of the process."""
    folder = tmp_path_factory.mktemp("colocated")
    done = train(folder, "grpo")
    assert done.returncode == 0, done.stdout + done.stderr
    return steps_of(folder)


@dataclass
class Server:
    """A real vLLM server of the TINY model, started by the documented command line."""

    folder: object
    process: object = None
    port: int = field(default=0)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self):
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        words = shlex.split(remote_engine.START)
        flags = words[words.index("MODEL") + 1 :]
        variables = dict(word.split("=", 1) for word in words[: words.index("vllm")])
        more = "--load-format dummy --dtype float32 --enforce-eager --no-enable-chunked-prefill"
        more += " --distributed-executor-backend uni --host 127.0.0.1 --disable-log-stats"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(self.folder), "--chat-template", CHAT, "--port", str(self.port)]
        small = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_WORKER_MULTIPROCESSING_METHOD": "fork",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [*command, *flags, *more.split()],
            env=os.environ | small | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ready(self, seconds=180):
        began = time.monotonic()
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5)
            except OSError:
                assert self.process.poll() is None, "the server ended while it started"
                assert time.monotonic() - began < seconds, "the server did not start"
                time.sleep(0.2)

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def tiny():
    return ModelSpec(config=TINY, tokenizer="characters")


@pytest.fixture(scope="session", autouse=True)
def _starting(request, tiny, tmp_path_factory):
    """Servers that start while other tests run, if any test wants them."""
    wanted = any("servers" in item.fixturenames for item in request.session.items)
    made = []
    with ExitStack() as stack:
        if wanted and find_spec("vllm.platforms") is not None:
            folder = tmp_path_factory.mktemp("served")
            tokenizer = load_tokenizer(tiny)
            described(tiny, tokenizer)[0].save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made = [Server(folder), Server(folder)]
        for server in made:
            server.start()
            stack.callback(server.kill)
        yield made


@pytest.fixture(scope="session")
def servers(_starting):
    """Two servers that are up, with random weights."""
    for server in _starting:
        server.ready()
    return _starting
