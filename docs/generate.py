"""The generated pages of the documentation, as a hook of mkdocs: nothing in them is kept by hand.

`python docs/generate.py FOLDER` writes them to a folder, to be looked at without mkdocs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from generated.methods import method_pages
from generated.parts import part_pages
from generated.recipe import recipe_page
from generated.site import Site

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def pages() -> dict[str, str]:
    """Every generated page, by its path below docs/."""
    site = Site.read()
    return {"reference/recipe.md": recipe_page(), **part_pages(site), **method_pages(site)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that are written."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


if __name__ == "__main__":
    for path, text in pages().items():
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
