"""Built as wheels and installed into a clean environment, didact and its example plug-ins work."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from didact.plugins.manager import load
from didact.plugins.scaffold import KINDS, new_plugin

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
EXAMPLES = ("didact-spread", "didact-dapo-plus")
FOLDERS = ("core", "algorithms", "rewards", "feedback", "plugins", "configs", "examples")
FILES = ("__init__.py", "testing.py", "py.typed", "pyproject.toml", "README.md", "LICENSE")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", ".*")


def call(*command, cwd, **environment):
    """Run a command; its output, or a failure that shows it."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """An environment with the wheels; what they depend on is borrowed from this one."""
    home = tmp_path_factory.mktemp("clean")
    source = home / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=LEFT_OUT)
    for file in filter(Path.exists, (ROOT / name for name in FILES)):
        shutil.copy(file, source)
    (source / "README.md").touch()
    packages = [source / "examples" / name for name in EXAMPLES]
    packages.append(new_plugin("fresh", "loss", home, load(installed=False)))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    building = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", home / "wheels")
    call(*pip, *building, source, *packages, cwd=home)
    call(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    wheels = sorted((home / "wheels").glob("*.whl"))
    call(*pip, "--python", python, "install", "--no-deps", "--no-index", *wheels, cwd=home)
    site = next((home / "venv" / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shutil.rmtree(source / "core")  # nothing can come from the source any more
    return home, python, site, packages


def test_the_wheel_is_what_is_imported_and_holds_every_file(clean):
    home, python, site, _ = clean
    code = "import didact, didact.testing as t; print(didact.__file__); print(t.__file__)"
    assert all(line.startswith(str(site)) for line in call(python, "-c", code, cwd=home).split())
    shipped = {path.relative_to(site / "didact") for path in (site / "didact").rglob("*")}
    for folder in FOLDERS[:-1]:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".txt", ".css", ".js"):
                assert path.relative_to(ROOT) in shipped
    assert not (site / "didact" / "tests").exists() and not (site / "didact" / "examples").exists()


def test_the_plug_ins_are_listed_and_the_doctor_is_content(clean):
    home, python, _, _ = clean
    tool = python.parent / "didact"
    listed = call(tool, "plugins", "list", cwd=home)
    for name in ("variety", "spread", "resting", "silence_truncated", "fresh"):
        assert f" {name} " in listed
    assert {"spread/spread", "dapo_plus/dapo_plus", "fresh/fresh"} <= {
        line.split()[0] for line in call(tool, "recipe", "list", cwd=home).splitlines() if line
    }
    assert "didact-dapo-plus 0.1.0" in call(tool, "plugins", "doctor", cwd=home)


@pytest.mark.parametrize("which", range(3), ids=[*EXAMPLES, "a new plug-in"])
def test_a_plug_in_s_tests_pass_against_the_wheel(clean, which):
    _, python, _, packages = clean
    pytest_ = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib")
    assert " passed" in call(*pytest_, packages[which] / "tests", cwd=packages[which])


def test_a_plug_in_is_held_to_its_promises_without_a_line_of_test_code(clean, tmp_path):
    _, python, _, _ = clean
    said = call(
        python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--didact-plugin", "spread",
        cwd=tmp_path,
    )  # fmt: skip
    assert "loss:spread-loss_does_not_depend_on_micro_batches" in said.replace(" ", "")
    assert "reward:variety-part_is_documented" in said and " failed" not in said


def test_a_strict_type_checker_is_content_with_every_plug_in(clean):
    home, python, site, _ = clean
    pytest.importorskip("mypy")
    target = home / "typed"
    registry = load(installed=False)
    modules = ["didact_spread", "didact_dapo_plus"]
    for module in modules:
        shutil.copytree(site / module, target / module)
    for kind in KINDS:
        made = new_plugin(f"typed-{kind}", kind, home, registry)
        modules.append(f"didact_typed_{kind}")
        shutil.copytree(made / modules[-1], target / modules[-1])
    config = target / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\nfollow_imports = silent\n")
    mypy = (sys.executable, "-m", "mypy", "--config-file", config, "--python-executable", python)
    call(*mypy, *(word for module in modules for word in ("-p", module)), cwd=target)
