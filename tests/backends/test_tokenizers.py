"""Text to ids and back: the short way gives what the tokenizer itself gives, whatever its kind."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from didact.core.backends import tokenizers
from didact.core.backends.tokenizers import character_tokenizer, decoded, encoded

TEXTS = [
    "",
    "Hello , world .",
    "a<end>b",
    "<pad>",
    "Ünïcode 😀 文",
    " two  spaces\n",
    "don 't do n't",
]
CORPUS = [*TEXTS, "the lower newest widest", "world of words, hello again"] * 3
SPECIAL = ["<pad>", "<end>", "[UNK]"]


def wrapped(core, trainer, **more):
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="[UNK]", **more
    )


def byte_level():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return wrapped(core, trainer, clean_up_tokenization_spaces=False)


def word_pieces():
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return wrapped(core, trainer, clean_up_tokenization_spaces=True)


def pieces_of_sentences():
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    return wrapped(core, trainer, clean_up_tokenization_spaces=False)


KINDS = {"bytes": byte_level, "words": word_pieces, "sentences": pieces_of_sentences}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("few", [0, tokenizers.FEW])
def test_both_ways_are_the_tokenizers_own(kind, few, monkeypatch):
    monkeypatch.setattr(tokenizers, "FEW", few)
    tokenizer = KINDS[kind]()
    wanted = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for text in TEXTS
    ]
    tokenizer(TEXTS, padding="max_length", max_length=4, truncation=True)  # stays switched on
    assert encoded(tokenizer, TEXTS) == wanted
    ids = [*wanted, [*wanted[1], tokenizer.eos_token_id]]
    assert decoded(tokenizer, ids) == [
        tokenizer.decode(row, skip_special_tokens=True) for row in ids
    ]


def test_a_special_token_is_one_only_where_it_may_be():
    tokenizer = character_tokenizer()
    assert tokenizer("<eos>", add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id]
    assert len(encoded(tokenizer, ["<eos>"])[0]) == len("<eos>")


class Spelled(PreTrainedTokenizerFast):
    """Encodes in upper case, and decodes without spaces."""

    def _encode_plus(self, text, *given, **more):
        return super()._encode_plus([one.upper() for one in text], *given, **more)

    def _decode(self, *given, **more):
        return super()._decode(*given, **more).replace(" ", "")


@pytest.mark.parametrize("few", [0, tokenizers.FEW])
def test_a_tokenizer_with_a_way_of_its_own_goes_it(few, monkeypatch):
    monkeypatch.setattr(tokenizers, "FEW", few)
    tokenizer = Spelled(tokenizer_object=character_tokenizer().backend_tokenizer)
    ids = encoded(tokenizer, ["a b"])
    assert decoded(character_tokenizer(), ids) == ["A B"]
    assert decoded(tokenizer, ids) == ["AB"]


class Slow:
    """FAKE tokenizer without a backend: one id for each character."""

    def __call__(self, texts, **asked):
        assert asked == {"add_special_tokens": False, "split_special_tokens": True}
        return {"input_ids": [[ord(c) for c in text] for text in texts]}

    def decode(self, ids, skip_special_tokens):
        return "".join(map(chr, ids)) if skip_special_tokens else "?"


def test_a_tokenizer_without_a_backend_is_asked_itself():
    assert decoded(Slow(), encoded(Slow(), TEXTS)) == TEXTS
