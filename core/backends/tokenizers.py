"""Plain text to token ids and back; and the embedded character tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
FEW = 2**14
"""Characters that one thread encodes sooner than it wakes others."""
ENCODERS, DECODERS = ("__call__", "_encode_plus"), ("decode", "_decode")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def character_tokenizer() -> Any:
    """A `PreTrainedTokenizerFast` with one token per character: 96 characters, pad, bos, eos.

    A character outside of that set is an error, never an unknown token. It has no chat template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: at for at, token in enumerate([PAD, BOS, EOS, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary))
    core.pre_tokenizer = pre_tokenizers.FixedLength(1)
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids"],
    )


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts: no special tokens added, and those inside spelled out.

    What `tokenizer(texts, add_special_tokens=False, split_special_tokens=True)` gives; a few short
    texts are encoded in this thread, because those of the tokenizer would have to be woken, and on
    a CPU wait for the cores that torch's threads still hold.
    """
    fast = _backend(tokenizer, ENCODERS)
    if fast is None or sum(map(len, texts)) > FEW:
        out = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return list(out["input_ids"])
    if fast.padding is not None:
        fast.no_padding()
    if fast.truncation is not None:
        fast.no_truncation()
    if not fast.encode_special_tokens:
        fast.encode_special_tokens = True
    return [fast.encode(text, add_special_tokens=False).ids for text in texts]


def decoded(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of token ids, without special tokens: `tokenizer.decode`, at a third of its time."""
    fast = _backend(tokenizer, DECODERS)
    plain = fast is not None and not tokenizer.clean_up_tokenization_spaces
    decode = fast.decode if plain else tokenizer.decode
    return [decode(ids, skip_special_tokens=True) for ids in rows]


def _backend(tokenizer: Any, ways: Sequence[str]) -> Any:
    """What does the work behind these methods; None if the tokenizer has a way of its own."""
    from transformers import PreTrainedTokenizerFast

    own = [getattr(type(tokenizer), way, None) for way in ways]
    usual = [getattr(PreTrainedTokenizerFast, way, None) for way in ways]
    return tokenizer.backend_tokenizer if own == usual else None
