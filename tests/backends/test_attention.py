"""Attention by name: kernels that are not installed, and what is used in their place."""

import pytest
from transformers import AutoTokenizer
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.errors import RecipeError

TINY = quickstart_model() | {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
FRESH = {"config": TINY, "tokenizer": "characters"}


@pytest.mark.skipif(
    is_flash_attn_2_available() or is_kernels_available(), reason="flash attention is here"
)
@pytest.mark.parametrize("origin", ["config", "path"])
def test_flash_attention_that_is_not_installed_is_refused_in_one_line(origin, tmp_path):
    tokenizer = load_tokenizer(ModelSpec(**FRESH))
    if origin == "path":
        load_model(ModelSpec(**FRESH), tokenizer).save_pretrained(tmp_path)
    where = FRESH if origin == "config" else {"path": str(tmp_path)}
    said = r"model.* 'attention: flash_attention_2': .*install flash-attn.*'attention: packed'"
    with pytest.raises(RecipeError, match=said) as told:
        load_model(ModelSpec(**where, attention="flash_attention_2"), tokenizer)
    assert "\n" not in str(told.value)


def test_another_package_that_is_not_installed_is_named(monkeypatch, tmp_path):
    def lacking(*given, **options):
        raise ImportError("\nThis needs `sentencepiece`.\nSee its page.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lacking)
    with pytest.raises(RecipeError, match=r"^tokenizer .* not here: This needs `sentencepiece`.$"):
        load_tokenizer(ModelSpec(path=str(tmp_path)))
