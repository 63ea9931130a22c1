"""Every tutorial is run as it is written, in an environment of its own, within its line bars."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from docs.pages import DOCS, Block, blocks, code_lines

PAGES = sorted(p.name for p in (DOCS / "tutorials").glob("*.md") if p.name != "index.md")
BARS = {
    "reward.md": 10,
    "advantage.md": 25,
    "loss.md": 35,
}
"""Most lines of code of the module on a page; docstrings and empty lines aside."""
SCRIPTS = {"didact": "didact.configs.cli", "pytest": "pytest", "pip": "pip._internal.cli.main"}
SCRIPT = """#!{python}
import sys
from {module} import main
if __name__ == "__main__":
    sys.exit(main())
"""
METHOD = (60, 150)
PAPER = 60


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment of its own that also sees everything installed here; nothing is fetched."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home)
    python = home / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    here = sysconfig.get_path("purelib")
    (site / "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    for name, module in SCRIPTS.items():
        script = home / "bin" / name
        script.write_text(SCRIPT.format(python=python, module=module))
        script.chmod(0o755)
    cache = os.environ.get("DIDACT_CACHE") or str(tmp_path_factory.mktemp("cache"))
    own = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "DIDACT_CACHE": cache}
    pip = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_QUIET": "2"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
    return {**kept, **own, **pip, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}


def carry_out(block: Block, folder: Path, shell: dict[str, str]) -> None:
    if block.title:
        target = folder / block.title
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, encoding="utf-8")
    elif block.language == "sh":
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        done = subprocess.run(
            command, cwd=folder, env=shell, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.skipif(sys.platform != "linux", reason="commands of a Linux shell")
@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_works_as_written(page, shell, tmp_path):
    run_page(f"tutorials/{page}", shell, tmp_path)


def test_the_commands_of_the_quickstart_work(shell, tmp_path):
    run_page("quickstart.md", shell, tmp_path)


def run_page(page: str, shell: dict[str, str], folder: Path) -> None:
    steps = blocks(page)
    assert any(block.language == "sh" for block in steps)
    for block in steps:
        carry_out(block, folder, shell)


@pytest.mark.parametrize("page", BARS)
def test_a_part_stays_within_its_bar(page):
    (module,) = [block for block in blocks(f"tutorials/{page}") if block.language == "python"]
    assert code_lines(module.text) <= BARS[page]


def test_a_method_takes_60_to_150_lines():
    files = [block for block in blocks("tutorials/method.md") if "didact-duels/" in block.title]
    least, most = METHOD
    assert least <= sum(block.lines for block in files) <= most


def test_a_paper_takes_60_lines():
    files = [block for block in blocks("tutorials/paper.md") if block.title]
    assert len(files) == 4
    assert sum(block.lines for block in files) <= PAPER


def test_every_page_is_listed_in_the_index():
    index = (DOCS / "tutorials" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == set(PAGES)
