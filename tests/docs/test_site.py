"""Every part and recipe has a card with its evidence, the evidence exists, and the site builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import DOCS

sys.path.insert(0, str(DOCS))

from generate import pages
from generated.site import Site

ROOT = DOCS.parent
STATUSES = {"reproduction", "reconstruction", "composition"}
SITE = Site.read()
PAGES = pages()


def test_every_packaged_recipe_says_what_it_was_verified_against():
    assert {method.name for method in SITE.methods} == set(SITE.statuses)
    assert {kept["status"] for kept in SITE.statuses.values()} <= STATUSES


def test_every_packaged_recipe_has_a_card_and_a_row():
    for method in SITE.methods:
        assert method.text in PAGES[f"methods/{method.name}.md"]
        assert f"[{method.name}]({method.name}.md)" in PAGES["methods/index.md"]


def test_every_registered_part_has_a_card_with_its_settings():
    for entry in SITE.registry.entries():
        page = PAGES[f"reference/parts/{entry.kind}.md"]
        assert f"\n## {entry.name}\n" in page
        card = page.split(f"\n## {entry.name}\n")[1].split("\n## ")[0]
        assert all(f"`{name}`" in card for name in entry.params.model_fields)


def test_evidence_is_of_parts_and_recipes_that_exist():
    assert set(SITE.covered) <= set(SITE.entries())
    used = [name for names in SITE.covered.values() for name in names]
    used += [name for kept in SITE.statuses.values() for name in kept["verified"]]
    assert set(used) == set(SITE.evidence)


@pytest.mark.parametrize("name", SITE.evidence)
def test_evidence_names_a_test_and_figures_that_exist(name):
    kept = SITE.evidence[name]
    path, _, function = kept["test"].partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    assert f"def {function}(" in text if function else "def test_" in text
    helpers = "".join(p.read_text() for p in sorted((ROOT / path).parent.glob("conftest.py")))
    for figures in kept["golden"]:
        assert (ROOT / "tests" / "golden" / figures).is_file()
        assert Path(figures).name in text + helpers


@pytest.mark.parametrize("name", SITE.statuses)
def test_a_reproduction_agrees_with_code_that_was_executed(name):
    kept = SITE.statuses[name]
    about = next(method.about for method in SITE.methods if method.name == name)
    executed = [one for one in kept["verified"] if SITE.evidence[one]["executed"]]
    if kept["status"] == "reproduction":
        assert executed
        assert "econstruction" not in about
    elif "Reconstruction" in about:
        assert kept["status"] == "reconstruction"


def test_a_reproduction_covers_the_losses_and_advantages_it_uses():
    for method in SITE.methods:
        if SITE.statuses[method.name]["status"] == "reproduction":
            mine = [p for p in method.parts if p.split("/")[0] in ("loss", "advantage", "weight")]
            assert not [part for part in mine if part not in SITE.covered], method.name


def test_every_key_of_a_recipe_is_in_the_reference():
    from didact.configs.schema import PhaseSpec, Recipe

    page = PAGES["reference/recipe.md"]
    assert all(
        f"| `{key}` |" in page for model in (Recipe, PhaseSpec) for key in model.model_fields
    )


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r'(?:src|rel="stylesheet" href)="(https?://[^"]+)"', home)
    assert not fetched, "a page fetches something from elsewhere"
    assert not list((tmp_path / "site").rglob("*.py"))
