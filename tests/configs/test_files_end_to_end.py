"""GSM8K and MATH through a chat template: an evaluation and one training step, by settings only."""

from pathlib import Path

import pytest

from didact.configs.evaluate import evaluate_recipe
from didact.configs.launch import train_recipe

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "benchmarks"
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark files are not here")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny random model whose tokenizer has a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, eos_token="<eos>", pad_token="<pad>", chat_template=CHAT
    )
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        "qwen3", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def settings(train: str, test: str, model: Path) -> list[str]:
    return [
        f"models.policy={{path: {model}}}",
        f"task.path={DATA / train}",
        "task.limit=8",
        f"evaluation.task.path={DATA / test}",
        "evaluation.task.limit=6",
        "evaluation.samples=2",
        "evaluation.ks=[1, 2]",
        "sampling.max_tokens=24",
        "prompt.max_tokens=4000",
        "sampler.prompts=4",
    ]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("gsm8k", "gsm8k_train.jsonl", "gsm8k_test.jsonl"),
        ("math", "math_train.jsonl", "math500.jsonl"),
    ],
)
def test_a_benchmark_is_evaluated_and_trained_on(name, train, test, model, tmp_path, capsys):
    chosen = settings(train, test, model)
    metrics = evaluate_recipe(name, chosen, out=tmp_path / "answers.jsonl")
    assert metrics["eval/problems"] == 6
    assert 0.0 <= metrics["eval/greedy"] <= 1.0
    assert "eval/avg@2" in capsys.readouterr().out
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 6
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"extends: {name}\nexperience:\n  - rollout: demonstrations\n"
        "phases: {sft: {take: {origin: demonstration}, rule: sft}}\nsteps: 1\n",
        encoding="utf-8",
    )
    out = tmp_path / "run"
    train_recipe(recipe, [*chosen, "evaluation=null"], out=out, quiet=True)
    assert (out / "final" / "model.safetensors").exists()
