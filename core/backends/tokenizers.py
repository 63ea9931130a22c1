"""The embedded character tokenizer: printable ASCII and newline, saved and loaded as usual."""

from __future__ import annotations

from typing import Any

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def character_tokenizer() -> Any:
    """A `PreTrainedTokenizerFast` with one token per character: 96 characters, pad, bos, eos.

    A character outside of that set is an error, never an unknown token. It has no chat template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: at for at, token in enumerate([PAD, BOS, EOS, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids"],
    )
