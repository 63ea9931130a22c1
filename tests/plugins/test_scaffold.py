"""`didact new-plugin` writes a package that is found, typed, and keeps its promises, unedited."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from didact import PluginError
from didact.configs.document import locate
from didact.configs.resolve import checked
from didact.plugins.manager import load
from didact.plugins.scaffold import KINDS, Names, new_plugin
from didact.testing import check, parts_of, train_tiny


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Write a plug-in of a kind and make it as good as installed."""

    def make(kind, name=None):
        home = new_plugin(name or f"my-{kind}", kind, tmp_path, load(installed=False))
        names = Names.of(name or f"my-{kind}")
        info = home / f"{names.module}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {names.package}\nVersion: 0.1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[didact]\n{names.part} = {names.module}\n")
        monkeypatch.syspath_prepend(str(home))
        sys.modules.pop(names.module, None)
        return home, names

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plug_in_is_listed_keeps_its_promises_and_trains(kind, made, tmp_path):
    _, names = made(kind)
    registry = load()
    assert registry.plugins[names.part].api == ">=1,<2"
    parts = list(parts_of(registry, names.part))
    assert parts and any(part.entry.name == names.part for part in parts)
    for part in parts:
        check(part)
    assert locate(names.part).name == f"{names.part}.yaml"
    checked(names.part, (), registry)
    if kind in ("method", "sampler", "source"):
        assert (train_tiny(names.part, steps=1, out=tmp_path / "run") / "final").exists()


def test_a_plug_in_s_own_tests_pass_as_written(made):
    home, _ = made("loss")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(home)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(home)},
        cwd=home,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["my-loss", "my_loss", "didact-my-loss"])
def test_names_follow_from_one_another(name):
    assert Names.of(name) == Names("didact-my-loss", "my_loss")
    assert Names.of(name).module == "didact_my_loss"


@pytest.mark.parametrize("name", ["My-Loss", "1st", "a--b", "", "a b", "-a", "didact-"])
def test_a_name_that_cannot_be_a_package_is_refused(name, tmp_path):
    with pytest.raises(PluginError, match="cannot be the name"):
        new_plugin(name, "loss", tmp_path, load(installed=False))


def test_nothing_is_overwritten(tmp_path):
    registry = load(installed=False)
    home = new_plugin("mine", "loss", tmp_path, registry)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(PluginError, match="exists already"):
        new_plugin("mine", "reward", tmp_path, registry)
    assert before == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_name_that_is_taken_and_a_kind_that_is_none_are_refused(tmp_path):
    registry = load(installed=False)
    with pytest.raises(PluginError, match="a loss named 'ppo_clip' exists already, in 'didact'"):
        new_plugin("ppo-clip", "loss", tmp_path, registry)
    with pytest.raises(PluginError, match="Did you mean 'reward'"):
        new_plugin("mine", "rewards", tmp_path, registry)
    with pytest.raises(PluginError, match="a recipe named 'grpo' exists already"):
        new_plugin("grpo", "method", tmp_path, registry, ["grpo"])
    assert not list(Path(tmp_path).iterdir())
