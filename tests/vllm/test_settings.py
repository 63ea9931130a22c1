"""Settings that cannot work are refused before an engine starts, with FAKE configurations."""

import builtins
import json
import logging
import os
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from didact.configs import engines
from didact.core.backends import vllm_engine, vllm_errors, vllm_limits
from didact.core.backends.hf_generator import HFGenerator
from didact.core.backends.models import ModelSpec
from didact.core.errors import DidactError, RecipeError, RunError


def config(**changes):
    given = {"num_attention_heads": 6, "hidden_size": 96, "head_dim": 32} | changes
    made = SimpleNamespace(architectures=["Qwen3ForCausalLM"], **given)
    made.get_text_config = lambda: made
    return made


def settings(**changes):
    given = {
        "gpu_memory": 0.4,
        "kv_cache_gib": None,
        "max_model_len": 64,
        "max_sequences": 8,
        "tensor_parallel": 1,
        "enforce_eager": True,
        "dtype": "float32",
        "separate_process": False,
        "sleep": False,
    }
    return vllm_engine.Settings(**(given | changes))


@pytest.fixture
def gpus(monkeypatch):
    """FAKE: two GPUs, and a vLLM that serves every model."""
    monkeypatch.setattr(vllm_engine, "usable", lambda: True)
    monkeypatch.setattr(vllm_limits, "check_model", lambda *about: None)
    monkeypatch.setattr(vllm_engine.torch.cuda, "device_count", lambda: 2)


def test_tensor_parallelism_must_divide_the_heads(gpus):
    with pytest.raises(RecipeError, match=r"4 does not divide.*attention heads 6.*1, 2, 3, 6"):
        settings(tensor_parallel=4).check(config())


@pytest.mark.parametrize(
    ("asked", "model", "said"),
    [
        (3, {"num_key_value_heads": 2}, "heads 6, key-value heads 2.; possible: 1, 2, 6[.]"),
        (2, {"intermediate_size": 99}, "heads 6, .*, intermediate_size 99.; possible: 1, 3[.]"),
        (3, {"vocab_size": 99}, "vocabulary .padded. 128.; possible: 1, 2[.]"),
        (6, {"num_key_value_heads": 2, "intermediate_size": 64}, "possible: 1, 2[.]"),
    ],
)
def test_tensor_parallelism_must_fit_every_layer(gpus, asked, model, said):
    with pytest.raises(RecipeError, match=said):
        settings(tensor_parallel=asked).check(config(**model))


def test_key_value_heads_may_be_held_several_times(gpus):
    assert settings(tensor_parallel=2).check(config(num_key_value_heads=1, intermediate_size=64))


@pytest.mark.parametrize(
    ("limits", "model", "said"),
    [
        ({}, {"max_position_embeddings": 64}, "up to 200 .*max_position_embeddings of 64"),
        ({"max_model_len": 200}, {}, "up to 200 .*max_model_len of 200"),
    ],
)
def test_responses_that_leave_no_room_for_a_prompt_are_refused(gpus, limits, model, said):
    given = {"max_model_len": None, "max_tokens": 200} | limits
    with pytest.raises(RecipeError, match=f"sampling.max_tokens: .*{said}"):
        settings(**given).check(config(**model))


@pytest.mark.parametrize(
    "model",
    [
        {"max_position_embeddings": 201},
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {},
    ],
)
def test_responses_that_may_fit_are_not_refused(gpus, model):
    assert settings(max_model_len=None, max_tokens=200).check(config(**model))


MANY, FEW = {"max_model_len": 128, "max_tokens": 9}, {"max_position_embeddings": 64}


def test_a_longer_context_than_the_models_is_refused_unless_vllm_is_told_to_allow_it(
    gpus, monkeypatch
):
    monkeypatch.delenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", raising=False)
    with pytest.raises(RecipeError, match=r"128 is more than the model's .* of 64; lower"):
        settings(**MANY).check(config(**FEW))
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert settings(**MANY).check(config(**FEW))


def test_more_gpus_than_there_are_cannot_be_asked_for(gpus):
    with pytest.raises(RecipeError, match="3 GPUs asked for, 2 are here"):
        settings(tensor_parallel=3).check(config())
    assert settings(tensor_parallel=2).check(config())


@pytest.mark.parametrize("setting", [{"tensor_parallel": 2}, {"separate_process": True}])
def test_ranks_have_an_engine_each(gpus, setting):
    with pytest.raises(RecipeError, match="each has an engine of its own"):
        settings(ranks=2, **setting).check(config())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("no module", name="vllm"), r"not installed here.*pip install 'didact\[gpu\]'"),
        (OSError("libcuda.so.1: cannot open"), "libcuda.so.1.*another torch or driver.*hf"),
    ],
)
def test_a_vllm_that_cannot_be_imported_is_said_with_the_remedy(monkeypatch, error, said):
    imported = builtins.__import__

    def failing(name, *about):
        if name.startswith("vllm"):
            raise error
        return imported(name, *about)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(RunError, match=said):
        vllm_engine.usable.__wrapped__()


@pytest.mark.parametrize("level", ["CRITICAL", "INFO"])
def test_an_engine_that_did_not_start_says_what_its_process_died_of(monkeypatch, tmp_path, level):
    """FAKE: an engine whose process logs an error, of which the caller hears nothing."""

    def failing(*about, **settings):
        child = os.fork()
        if child == 0:
            try:
                raise ValueError("128 is not divisible by 3")
            except ValueError:
                logging.getLogger("vllm.worker").exception("it failed")
            os._exit(0)
        os.waitpid(child, 0)
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    monkeypatch.setenv("VLLM_LOGGING_LEVEL", level)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(vllm_engine, "usable", lambda: False)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=failing))
    heard = {"CRITICAL": "ValueError: 128 is not divisible by 3", "INFO": "RuntimeError: Engine.*"}
    with pytest.raises(RunError, match=f"did not start: {heard[level]}[.] If it is memory"):
        vllm_engine.start(tmp_path, settings(separate_process=True), "folder")
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ


def test_what_pydantic_refuses_is_said_without_its_advice():
    long = "1 error for Model\n  Value error, 9 is too much [type=value_error, input_value=9]\n"
    error = ValueError(f"{long}    For further information visit https://example.org")
    assert vllm_errors.last_line(error) == "ValueError: Value error, 9 is too much."


def test_an_engine_on_gpus_is_told_how_much_memory(gpus):
    given = vllm_engine._arguments(settings(sleep=True, kv_cache_gib=2.0), "ipc")
    assert given["gpu_memory_utilization"] == 0.4 and given["enable_sleep_mode"]
    assert given["kv_cache_memory_bytes"] == 2 * 2**30
    assert given["weight_transfer_config"] == {"backend": "ipc"}
    assert given["logprobs_mode"] == "processed_logprobs" and given["load_format"] == "dummy"
    assert "distributed_executor_backend" not in given


def test_ranks_bring_their_own_processes(gpus):
    given = vllm_engine._arguments(settings(ranks=2), "memory")
    assert given["distributed_executor_backend"] == "external_launcher"


def test_end_tokens_are_those_that_transformers_reads_also_below_the_users_folder(
    spec, tokenizer, monkeypatch, tmp_path
):
    made, _ = vllm_engine.described(spec, tokenizer)
    made.eos_token_id = [2, 17]
    made.save_pretrained(tmp_path / "m")
    monkeypatch.setenv("HOME", str(tmp_path))
    stored = ModelSpec(path="~/m")
    assert vllm_engine.described(stored, tokenizer)[1] == [2, 17]
    (tmp_path / "m" / "generation_config.json").write_text('{"temperature": 0.6}')
    assert vllm_engine.described(stored, tokenizer)[1] == []


def test_logprobs_of_a_flat_output_are_the_sampled_tokens():
    """The engine may add the most probable token's number after the sampled one's."""
    kept = SimpleNamespace(logprobs=[-1.0, -0.5, -2.0], start_indices=[0, 2])
    assert vllm_engine.sampled_logprobs(SimpleNamespace(logprobs=kept)) == [-1.0, -2.0]


@pytest.mark.parametrize(
    ("generator", "said"),
    [
        ("{use: server, url: 'http://127.0.0.1:9/v1'}", "sync=folder or nccl"),
        ("{use: server, url: 'http://127.0.0.1:9/v1', sync: folder, wait: 0}", "no answer for 0 s"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_are_loaded(run, monkeypatch, generator, said):
    monkeypatch.setattr(engines, "load_model", lambda *about: pytest.fail("weights were loaded"))
    with pytest.raises(DidactError, match=said):
        run("grpo", f"generator={generator}")


TWO = ["models.other={}", "phases.two={model: other, rule: reinforce, average: tokens}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["staleness=1"], "'staleness: 1' the generator works while the learner does"),
        (TWO, "one engine in a process, and other and policy have one each"),
    ],
)
def test_sleep_is_refused_where_it_cannot_work(run, changes, said):
    with pytest.raises(RecipeError, match=said) as caught:
        run("grpo", "generator={use: vllm, sleep: true}", *changes)
    assert "generator.sleep" in str(caught.value)


def test_engines_in_processes_of_their_own_may_all_sleep(run):
    """What is asked later stops it: whether vLLM is here, and knows the model."""
    with pytest.raises(DidactError, match=r"not installed|no attention") as caught:
        run("grpo", "generator={use: vllm, sleep: true, separate_process: true}", *TWO)
    assert "sleep" not in str(caught.value)


CODEGEN = "{model_type: codegen, n_embd: 32, n_layer: 1, n_head: 2, rotary_dim: 8, n_positions: 64}"


@pytest.mark.skipif(find_spec("vllm.platforms") is None, reason="vLLM is not installed")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["sampling.max_tokens=600"], "up to 600 tokens .*max_position_embeddings of 512"),
        ([], "no attention for heads of 16; it has 32"),
        ([f"models.policy.config={CODEGEN}"], "no implementation of CodeGenForCausalLM; use .*hf"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_before_weights_are_loaded(
    run, monkeypatch, changes, said
):
    monkeypatch.setattr(engines, "load_model", lambda *about: pytest.fail("weights were loaded"))
    with pytest.raises(RecipeError, match=said) as caught:
        run("grpo", "generator=vllm", *changes)
    assert "\n" not in str(caught.value)


def test_what_a_generator_reports_of_a_sync_is_a_metric(run, monkeypatch):
    def sync(self, learner):
        self.resume(learner, self.version + 1)
        return {"mismatch/probe": 1.0}

    monkeypatch.setattr(HFGenerator, "sync", sync)
    folder = run("grpo", "steps=1")
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["policy/mismatch/probe"] == 1.0
