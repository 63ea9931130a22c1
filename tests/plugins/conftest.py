"""Fake installed plug-ins: folders with metadata on the import path."""

import sys

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a module as the plug-in of a package: `install("spread", "x = 1")`."""

    def add(name, code, *, package=None, version="1.0", recipes=()):
        package = package or f"didact-{name}"
        site = tmp_path / f"site-{package}"
        module = f"fake_{package.replace('-', '_')}"
        (site / module).mkdir(parents=True)
        (site / module / "__init__.py").write_text(code)
        for recipe in recipes:
            (site / module / f"{recipe}.yaml").write_text("extends: grpo\n")
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[didact]\n{name} = {module}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    return add
