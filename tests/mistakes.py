"""What is said of a recipe with mistakes, line by line."""

import pytest

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.core.errors import RecipeError


def mistakes(tmp_path, registry, text: str) -> list[str]:
    """The lines of the error that a recipe `mine.yaml` of this text makes."""
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    document = read(file)
    with pytest.raises(RecipeError) as caught:
        assemble(check(document, registry), registry, document)
    return str(caught.value).splitlines()
