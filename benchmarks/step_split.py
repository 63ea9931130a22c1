"""Where a step's time goes, and what the framework itself costs; optionally beside TRL's trainer.

    python benchmarks/step_split.py                 # the quickstart's GRPO and ReLIFT steps, alone
    python benchmarks/step_split.py --at-once       # as `make quickstart` runs them: on each core
                                                    # one, with one thread; its bar is 5 %
    python benchmarks/step_split.py --workload w2   # 4.75 M parameters, 16 x 8 completions
    python benchmarks/step_split.py --workload w2 --trl   # the same through TRL, alternating

Seconds hold for this machine now; compare only figures of one call. On a busy machine they mean
nothing: the load average is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from math import inf
from pathlib import Path

from clocks import losses_into, steps_into, timed

W2 = {
    "tokenizer": "characters",
    "config": {
        "model_type": "qwen3",
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 683,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
}
BAR = 0.05
"""The share of a step as `make quickstart` runs it that the framework stays under."""
PARTS = ("generate", "reward", "forward", "loss", "backward", "optimizer")


def split(recipe: str, overrides: list[str], steps: int) -> float:
    """Print the median step of a recipe, and its parts; the framework's share."""
    import torch

    from didact.configs import launch
    from didact.core import score
    from didact.core.backends import forward, hf_generator, torch_learner

    spent: dict[str, float] = defaultdict(float)
    timed(hf_generator.HFGenerator, "generate", "generate", spent)
    timed(forward.Readouts, "__call__", "forward", spent)
    timed(torch.Tensor, "backward", "backward", spent)
    timed(torch_learner.TorchLearner, "_step", "optimizer", spent)
    timed(score, "_call", "reward", spent)
    losses_into(spent)
    marks: list[dict[str, float]] = []
    steps_into(marks, spent)
    with tempfile.TemporaryDirectory() as folder:
        more = [f"steps={steps}", "evaluation=null", "observers=[]", *overrides]
        launch.train_recipe(recipe, more, out=Path(folder) / "run", quiet=True)
    marks = marks[2 - steps :]  # a base model may have been trained before
    step = statistics.median(mark["step"] for mark in marks)
    print(
        f"\n{recipe}: {step:.4f} s/step (median of {len(marks)}, {torch.get_num_threads()} threads)"
    )
    for label in PARTS:
        part = statistics.median(mark.get(label, 0.0) for mark in marks)
        print(f"  {label:10} {part:.4f} s  {part / step:6.1%}")
    own = statistics.median(
        mark["step"] - sum(mark.get(label, 0.0) for label in PARTS) for mark in marks
    )
    print(f"  {'framework':10} {own:.4f} s  {own / step:6.1%}   (all the rest, weight sync too)")
    return own / step


TRL = """
import statistics, sys, time, torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
marks = []

class Clock(TrainerCallback):
    def on_step_begin(self, *a, **k): marks.append([time.perf_counter(), None])
    def on_step_end(self, *a, **k): marks[-1][1] = time.perf_counter()

def reward(completions, **k): return [-len(c) / 100 for c in completions]

steps = int(sys.argv[2])
data = Dataset.from_dict({"prompt": [f"RLX:ab{c}\\n"[:8] for c in "abcdefgh" * 2 * (steps + 4)]})
config = GRPOConfig(output_dir=sys.argv[3], per_device_train_batch_size=128, num_generations=8,
    max_completion_length=32, max_steps=steps, learning_rate=1e-6, beta=0.0, report_to=[],
    logging_steps=10**9, save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True)
GRPOTrainer(model, reward, args=config, train_dataset=data, processing_class=tokenizer,
            callbacks=[Clock()]).train()
print("TRL", statistics.median(b - a for a, b in marks[2:]))
"""


def beside_trl(steps: int, rounds: int) -> None:
    """W2 through TRL and through didact, in turn, each in a process of its own."""
    from didact.core.backends.models import ModelSpec, load_model, load_tokenizer

    spec = ModelSpec.model_validate(W2)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(spec)
        load_model(spec.model_copy(update={"attention": "sdpa"}), tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for _ in range(rounds):
            command = [sys.executable, "-c", TRL, folder, str(steps), folder + "/out"]
            subprocess.run(command, check=True)
            here = [sys.executable, __file__, "--workload", "w2", "--steps", str(steps)]
            subprocess.run(here, check=True)


def at_once(steps: int) -> int:
    """The quickstart's steps in as many processes as there are cores; 1 if one misses the bar."""
    from didact.configs.pool import cores

    command = [sys.executable, __file__, "--steps", str(steps), "--bar", str(BAR)]
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    beside = [
        subprocess.Popen(command, env=told, stdout=subprocess.PIPE, text=True)
        for _ in range(cores())
    ]
    for process in beside:
        print(process.communicate()[0])
    return int(any(process.returncode for process in beside))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=["quickstart", "w2"], default="quickstart")
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--trl", action="store_true", help="needs TRL installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", action="store_true", help="one process on each core")
    parser.add_argument("--bar", type=float, default=inf, help="most that the framework may take")
    chosen = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if chosen.at_once:
        sys.exit(at_once(chosen.steps))
    if chosen.trl:
        beside_trl(chosen.steps, chosen.rounds)
    elif chosen.workload == "w2":
        model = str(W2).replace("'", '"').replace("True", "true")
        overrides = ["base=null", f"models.policy={model}", "sampling.max_tokens=32"]
        overrides += ["rewards={correct: {use: linear_length, per: 100}}"]
        split("grpo", overrides, chosen.steps)
    else:
        shares = [split(recipe, [], chosen.steps) for recipe in ("grpo", "relift")]
        sys.exit(max(shares) >= chosen.bar)


if __name__ == "__main__":
    main()
