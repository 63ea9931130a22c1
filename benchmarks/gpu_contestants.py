"""The contestants of gpu_step.py: each trains one workload in this process and times its steps."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from clocks import Depth, steps_into, timed, wall
from gpu_workload import Scale, StopIds, memory, stop_ids

Marks = list[dict[str, float]]


def overrides(home: Path, scale: Scale, steps: int, more: Sequence[str]) -> list[str]:
    """The workload in the words of a recipe."""
    generator = {"use": "vllm", "seeded": False, **scale.settings}
    generator["max_model_len"] = scale.longest_prompt + 1 + scale.longest
    policy = {"path": str(home / "policy"), "tokenizer": str(home / "tokenizer")}
    policy["dtype"] = scale.dtype
    rollout = {"rollout": {"use": "policy", "n": scale.group}}
    advantage = {"advantage": {"use": "group_norm", "scale": "none"}}
    return [
        f"steps={steps}",
        f"experience={json.dumps([rollout, 'score', advantage])}",
        *("evaluation=null", "base=null", "observers=[]"),
        f"models.policy={json.dumps(policy)}",
        f"task={json.dumps({'use': 'jsonl', 'path': str(home / 'questions.jsonl')})}",
        f"sampler.prompts={scale.prompts}",
        f"prompt.max_tokens={scale.longest_prompt + 1}",
        f"sampling.max_tokens={scale.longest}",
        f"rewards={json.dumps({'correct': {'use': 'linear_length', 'per': scale.longest}})}",
        f"phases.rl.average={json.dumps({'per_sequence': scale.longest})}",
        "optimizers.main.lr=1e-6",
        f"generator={json.dumps(generator)}",
        f"learner={json.dumps({'use': 'torch', 'max_tokens': scale.micro_tokens})}",
        *more,
    ]


def didact(
    home: Path, scale: Scale, steps: int, more: Sequence[str], ahead: bool = False
) -> dict[str, Any]:
    """didact with vLLM in its process; between two synchronous steps the floor is measured."""
    from didact.configs import launch
    from didact.core.backends import torch_learner, vllm_engine, vllm_generator

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter if ahead else wall(device)
    spent: dict[str, float] = defaultdict(float)
    depth = Depth()  # a sync's probe generates and reads out too
    timed(vllm_generator.VllmGenerator, "generate", "generate", spent, clock, depth)
    timed(vllm_generator.VllmGenerator, "sync", "sync", spent, clock, depth)
    timed(torch_learner.TorchLearner, "freeze", "log-probability", spent, clock, depth)
    timed(torch_learner.TorchLearner, "update", "update", spent, clock, depth)
    plain = vllm_engine.sampling_params

    def params(*arguments: Any) -> Any:
        made = plain(*arguments)
        made.stop_token_ids = StopIds(made.stop_token_ids)
        return made

    vllm_engine.sampling_params = params
    marks: Marks = []
    steps_into(marks, spent)
    _beside(marks, spent, device, None if ahead else scale)
    recipe = "grpo_async" if ahead else "grpo"
    given = overrides(home, scale, steps, more)
    launch.train_recipe(recipe, given, out=home / f"run-{time.time_ns()}", quiet=True)
    for mark in marks:
        parts = ("generate", "sync", "log-probability", "update")
        mark["idle"] = mark["step"] - sum(mark.get(name, 0.0) for name in parts)
    return {"steps": marks[1:], "note": _note(ahead)}


def _note(ahead: bool) -> str:
    if ahead:
        return "staleness 1: idle below 0 is what generation and update did at the same time"
    return "synchronous; floor measured after each step on its prompts and tokens"


def _beside(
    marks: Marks, spent: dict[str, float], device: torch.device, scale: Scale | None
) -> None:
    """From now on every step is followed by a look at its tokens, its memory, and with a scale at
    the floor."""
    from didact.core import session

    inner = session.train

    def watched(*arguments: Any) -> Iterator[Any]:
        for groups in inner(*arguments):
            marks[-1]["tokens"] = float(sum(len(m.tokens) for g in groups for m in g.members))
            marks[-1] |= memory()
            if scale is not None:
                marks[-1] |= measured_floor(arguments[2], groups, device, scale)
                spent.clear()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            yield groups

    session.train = watched  # type: ignore[assignment]


def measured_floor(
    run: Any, groups: Sequence[Any], device: torch.device, scale: Scale
) -> dict[str, float]:
    """Seconds of the bare engine for a step's prompts, and of one packed forward and backward of
    its tokens: no records, rewards, rule, optimizer or sync."""
    from didact.core.backends import vllm_engine
    from didact.core.backends.microbatch import plan

    generator, learner, clock = run.generators["policy"], run.learners["policy"], wall(device)
    prompts = [{"prompt_token_ids": g.prompt.tokens.tolist()} for g in groups]
    params = vllm_engine.sampling_params(run.sampling, generator.ends, None, scale.group)
    generator.versions.forget_prefixes(generator.engine)  # as before the step, after its sync
    began = clock()
    outputs = generator.engine.generate(prompts, params, use_tqdm=False)
    generated = clock() - began
    tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
    rows = [(m.prompt.tokens, m.tokens) for g in groups for m in g.members]
    lengths = [len(context) + len(response) for context, response in rows]
    began = clock()
    for positions in plan(lengths, scale.micro_tokens)[0]:
        out = learner.reader.read([rows[at] for at in positions], frozenset({"logprobs"}))
        out["logprobs"].sum().backward()
    trained = clock() - began
    learner.reader.zero_grad(set_to_none=True)
    return {
        "floor generate": generated,
        "floor update": trained,
        "floor tokens": float(tokens),
        "floor": generated + trained,
    }


def trl(home: Path, scale: Scale, steps: int, tuned: dict[str, Any] | None) -> dict[str, Any]:
    """TRL's GRPOTrainer: vLLM colocated on a GPU, transformers' generation on a CPU.

    Args:
        tuned: settings beside those that make it fastest; None: its defaults.
    """
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    cuda = torch.cuda.is_available()
    config, note = _trl_config(home, scale, steps, tuned, cuda)
    counted: list[float] = []
    marks: Marks = []

    def reward(completions: Any, completion_ids: Any, **others: Any) -> list[float]:
        counted.append(float(sum(map(len, completion_ids))))
        return [-len(ids) / scale.longest for ids in completion_ids]

    class Clock(TrainerCallback):
        def on_step_begin(self, *a: Any, **k: Any) -> None:
            spent.clear()
            counted.clear()
            self.began = clock()

        def on_step_end(self, *a: Any, **k: Any) -> None:
            marks.append(
                {"step": clock() - self.began, "tokens": sum(counted), **spent, **memory()}
            )

    clock = wall(torch.device("cuda" if cuda else "cpu"))
    spent: dict[str, float] = defaultdict(float)
    timed(GRPOTrainer, "_generate", "generate", spent, clock)
    timed(GRPOTrainer, "_generate_and_score_completions", "experience", spent, clock)
    dtype = getattr(torch, scale.dtype)
    kernel = {"attn_implementation": "flash_attention_2"} if _has("flash_attn") and cuda else {}
    model = AutoModelForCausalLM.from_pretrained(home / "plain", dtype=dtype, **kernel)
    data = load_dataset("json", data_files=str(home / "questions.jsonl"), split="train")
    GRPOTrainer(
        model,
        reward,
        args=config,
        train_dataset=data.rename_column("question", "prompt"),
        processing_class=AutoTokenizer.from_pretrained(home / "tokenizer"),
        callbacks=[Clock()],
    ).train()
    for mark in marks:
        mark["log-probability"] = mark.get("experience", 0.0) - mark.get("generate", 0.0)
        mark["update"] = mark["step"] - mark.pop("experience", 0.0)
    return {"steps": marks[1:], "note": f"{note}, attention {model.config._attn_implementation}"}


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _trl_config(
    home: Path, scale: Scale, steps: int, tuned: dict[str, Any] | None, cuda: bool
) -> tuple[Any, str]:
    """TRL's settings: its defaults, or what makes it fastest, and those in words."""
    from trl import GRPOConfig

    rows = scale.prompts * scale.group
    settings: dict[str, Any] = {"use_cpu": not cuda, "bf16": scale.dtype == "bfloat16"}
    note = "transformers' generation"
    if cuda:
        _stops_in_trl(stop_ids(scale))
        settings |= {"use_vllm": True, "vllm_mode": "colocate"}
        settings["vllm_gpu_memory_utilization"] = scale.settings["gpu_memory"]
        settings["vllm_max_model_length"] = scale.longest_prompt + 1 + scale.longest
        note = "vLLM colocated"
    if tuned is not None:
        settings["vllm_importance_sampling_correction"] = False
        settings |= {"generation_kwargs": {"detokenize": False}} if cuda else {}
        settings |= {"use_liger_kernel": True} if cuda and _has("liger_kernel") else {}
        settings |= tuned
        note += f", best-tuned{'' if _has('liger_kernel') else ' without Liger'}"
    config = GRPOConfig(
        output_dir=str(home / "trl"),
        per_device_train_batch_size=scale.micro_rows,
        gradient_accumulation_steps=rows // scale.micro_rows,
        num_generations=scale.group,
        max_completion_length=scale.longest,
        max_steps=steps,
        learning_rate=1e-6,
        beta=0.0,
        report_to=[],
        save_strategy="no",
        logging_steps=10**9,
        disable_tqdm=True,
        **settings,
    )
    return config, note


def _stops_in_trl(ids: Sequence[int]) -> None:
    """TRL's sampling parameters, with the workload's stop ids in a form that vLLM tests fast."""
    from trl.generation import vllm_generation

    plain = vllm_generation.SamplingParams

    def params(**settings: Any) -> Any:
        made = plain(**settings)
        made.stop_token_ids = StopIds(ids)
        return made

    vllm_generation.SamplingParams = params
