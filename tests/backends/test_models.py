"""Models, the character tokenizer and the renderer."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.errors import DataError, RecipeError
from didact.core.render import TextRenderer
from didact.core.types import Problem

SPEC = ModelSpec(config=quickstart_model(), tokenizer="characters")
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_the_character_tokenizer_has_99_tokens_and_loses_nothing():
    tokenizer = load_tokenizer(SPEC)
    text = "".join(map(chr, range(32, 127))) + "\n  two spaces\n\n"
    assert len(tokenizer) == 99
    renderer = TextRenderer(tokenizer)
    assert renderer.text(renderer.response(text)) == text
    assert len(renderer.response(text, end=False)) == len(text)


def test_the_character_tokenizer_survives_saving(tmp_path):
    tokenizer = load_tokenizer(SPEC)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("RLX:abcde\n  R")["input_ids"] == tokenizer("RLX:abcde\n  R")["input_ids"]
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (1, 2, 0)
    assert again.decode(again("a  b\n")["input_ids"]) == "a  b\n"


def test_the_quickstart_model_has_the_documented_size_and_is_seeded():
    tokenizer = load_tokenizer(SPEC)
    first, second = load_model(SPEC, tokenizer), load_model(SPEC, tokenizer)
    other = load_model(SPEC.model_copy(update={"seed": 1}), tokenizer)
    assert sum(p.numel() for p in first.parameters()) == 286_800
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert first.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_a_saved_model_loads_with_transformers_and_by_path(tmp_path):
    tokenizer = load_tokenizer(SPEC)
    model = load_model(SPEC, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 40, 50, 60]])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours = load_model(ModelSpec(path=str(tmp_path)), load_tokenizer(ModelSpec(path=str(tmp_path))))
    assert theirs.config._attn_implementation == "sdpa"
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)


def test_a_value_model_starts_at_zero_and_keeps_its_head(tmp_path):
    tokenizer = load_tokenizer(SPEC)
    model = load_model(SPEC.model_copy(update={"kind": "value"}), tokenizer)
    assert not model.head.weight.any()
    torch.nn.init.normal_(model.head.weight)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_model(ModelSpec(path=str(tmp_path), kind="value"), tokenizer)
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: [f.unlink() for f in folder.glob("tokenizer*")], "no files of a tokenizer"),
        (lambda folder: cut(folder / "model.safetensors"), "cannot be loaded"),
        (lambda folder: lose(folder / "model.safetensors"), "lack 1 weights, .*layers.1.mlp.up"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_and_nothing_made_up(tmp_path, damage, said):
    tokenizer = load_tokenizer(SPEC)
    load_model(SPEC, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = ModelSpec(path=str(tmp_path))
    load_model(spec, load_tokenizer(spec))
    damage(tmp_path)
    with pytest.raises(RecipeError, match=said):
        load_model(spec, load_tokenizer(spec))


def cut(file):
    file.write_bytes(file.read_bytes()[:1000])


def lose(file):
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere", "./models/none"])
def test_a_missing_model_is_one_clear_line(path):
    with pytest.raises(RecipeError, match="there is no folder"):
        load_tokenizer(ModelSpec(path=path))


def test_an_unknown_architecture_is_refused():
    spec = ModelSpec(config={"model_type": "no_such"}, tokenizer="characters")
    with pytest.raises(RecipeError, match="no_such"):
        load_model(spec, load_tokenizer(spec))


@pytest.mark.parametrize("kind", ["falcon", "gptj"])
def test_a_model_with_attentions_of_its_own_says_which_to_take(kind):
    spec = ModelSpec(config={"model_type": kind, "n_layer": 1}, tokenizer="characters")
    with pytest.raises(RecipeError, match=f"{kind}.*has no 'attention: packed'; say .*eager"):
        load_model(spec, load_tokenizer(spec))


def test_plain_prompts_start_with_bos_and_responses_end_once():
    renderer = TextRenderer(load_tokenizer(SPEC), template="Q: {question}\n", system="Be brief.")
    prompt = renderer.prompt(Problem("p", "1+1=", demonstrations=("2", "two")))
    assert prompt.tokens[0] == 1 and (prompt.tokens[1:] != 1).all()
    assert renderer.text(prompt.tokens) == "Be brief.\nQ: 1+1=\n"
    ((first, second),) = renderer.demonstrations([prompt.problem])
    assert [renderer.text(each) for each in (first, second)] == ["2", "two"]
    assert [(each == 2).nonzero().flatten().tolist() for each in (first, second)] == [[1], [3]]


def test_special_tokens_in_the_text_are_not_obeyed():
    renderer = TextRenderer(load_tokenizer(SPEC))
    assert renderer.text(renderer.response("a<eos>b")) == "a<eos>b"
    assert len(renderer.context("<bos>")) == 6


def test_a_chat_template_is_used_if_there_is_one():
    tokenizer = load_tokenizer(SPEC)
    tokenizer.chat_template = CHAT
    said = TextRenderer(tokenizer, system="s").context("hello")
    assert tokenizer.decode(said) == "<system>s\n<user>hello\n<assistant>"
    plain = TextRenderer(tokenizer, chat=False).context([{"role": "user", "content": "hello"}])
    assert tokenizer.decode(plain) == "<bos>hello"


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("ending", "shown", "left"),
    [
        ("<think>\n", "<think>\nSo.</think>4", "So.</think>4"),
        ("<think>\n", "<think>So.</think>4", "So.</think>4"),
        ("<think>", "<think>\nSo.</think>4", "\nSo.</think>4"),
        ("<think>\n", "So.</think>4", "So.</think>4"),
        ("<think>\n</think>\n", "<think>\nSo.</think>4", "<think>\nSo.</think>4"),
        (": ", "<think>\nSo.</think>4", "<think>\nSo.</think>4"),
    ],
)
def test_a_demonstration_does_not_open_again_the_thought_that_its_prompt_opened(
    chat, ending, shown, left
):
    tokenizer = load_tokenizer(SPEC)
    tokenizer.chat_template = CHAT + f"{{{{ {ending!r} }}}}"  # jinja cuts a last newline
    renderer = TextRenderer(tokenizer, chat=chat, template="{question}" + ending * (not chat))
    problem = Problem("p", "2+2, <think>?", demonstrations=(shown,))
    assert renderer.text(renderer.prompt(problem).tokens).endswith(ending)
    ((tokens,),) = renderer.demonstrations([problem])
    assert renderer.text(tokens) == left and tokens[-1] == tokenizer.eos_token_id


def test_an_over_long_prompt_names_the_problem_the_length_and_the_limit():
    renderer = TextRenderer(load_tokenizer(SPEC), max_prompt_tokens=4)
    with pytest.raises(
        DataError, match=r"problem 'q7'.*has 6 tokens, the limit is 4.*'prompt.max_tokens'"
    ):
        renderer.prompt(Problem("q7", "abcde"))
    short, long = Problem("q8", "abc"), Problem("q7", "abcde")
    assert renderer.overlong([short, long]) == [(long, 6)]
    placed = replace(renderer, places={"q7": "train.jsonl:17"})
    with pytest.raises(DataError, match=r"^problem 'q7' \(train.jsonl:17\): its prompt has"):
        placed.prompt(Problem("q7", "abcde"))


def test_text_that_cannot_be_encoded_names_the_problem_and_the_characters():
    with pytest.raises(DataError, match=r"problem 'e1'.*é"):
        TextRenderer(load_tokenizer(SPEC)).prompt(Problem("e1", "café"))
    renderer = TextRenderer(load_tokenizer(SPEC))
    good, bad = Problem("g", "1", demonstrations=("2",)), Problem("e2", "1", demonstrations=("né",))
    assert len(renderer.prompts([good, bad])) == 2  # who asks for none is not stopped
    with pytest.raises(DataError, match=r"problem 'e2'.*é"):
        renderer.demonstrations([good, bad])
