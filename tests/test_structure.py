"""Properties of the code base: what ships, who imports whom, how long files are."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("core", "algorithms", "rewards", "feedback", "plugins", "configs")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
WRITTEN = SOURCES + sorted((ROOT / "tests").rglob("*.py")) + sorted(ROOT.glob("benchmarks/*.py"))
ALLOWED = {
    "core": set(),
    "algorithms": {"core"},
    "rewards": {"core"},
    "feedback": {"core"},
    "plugins": {"core", "algorithms", "rewards", "feedback"},
    "configs": {"core", "algorithms", "plugins"},
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_package_ships():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        path.parent.relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    expected = {"didact", *(f"didact.{'.'.join(folder.parts)}" for folder in found)}
    assert set(settings["packages"]) == expected


@pytest.mark.parametrize("path", WRITTEN, ids=name)
def test_a_file_is_short_or_says_why_in_its_first_line(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines and lines[0].startswith('"""'), "the first line says what the file is"
    assert len(lines) <= 300 or "long because" in lines[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_down(folder):
    for path in (ROOT / folder).rglob("*.py"):
        seen = set(re.findall(r"^\s*(?:from|import) didact\.(\w+)", path.read_text(), re.M))
        assert seen - {folder} <= ALLOWED[folder], name(path)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_heavy_imports_stay_in_backends_and_inside_functions(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) (vllm|deepspeed|transformers|datasets)\b", text, re.M)
    if "backends" not in path.parts:
        assert not re.search(r"\b(import|from) (vllm|deepspeed)\b", text)


@pytest.mark.parametrize("path", [p for p in SOURCES if "core" in p.parts], ids=name)
def test_the_core_knows_no_method(path):
    text = path.read_text(encoding="utf-8")
    methods = "grpo|relift|luffy|nft|sft|dapo|critique_grpo"
    assert not re.search(rf"""(==|in|case)\s*[("'\[{{]*["']({methods})["']""", text)


def test_the_loop_fits_on_a_screen():
    from didact.core import loop

    assert len(inspect.getsource(loop).splitlines()) <= 60


def test_every_hook_is_documented_and_every_kind_has_one():
    from didact.plugins import hookspecs
    from didact.plugins.registry import HOOKS

    hooks = {n for n in vars(hookspecs) if n.startswith("register_")}
    assert hooks == set(HOOKS.values())
    assert all(inspect.getdoc(getattr(hookspecs, hook)) for hook in hooks)


def test_every_registered_part_is_documented():
    from didact.plugins.manager import load

    lacking = [f"{e.kind}:{e.name}" for e in load(installed=False).entries() if not e.summary]
    assert not lacking


def test_help_does_not_import_torch():
    code = (
        "import sys; from didact.configs.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
