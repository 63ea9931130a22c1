"""What the framework itself costs a step of 64 x 8 responses of about 250 tokens, on the host.

    python benchmarks/host_overhead.py             # seconds by part of a step
    python benchmarks/host_overhead.py --profile   # and the functions that take most of them

Everything is the real framework, except two fakes: the generator returns responses that were drawn
beforehand, and the forward pass returns numbers of the right shape. So what remains is records,
text, rewards, advantages, batching, the rule, tallies and logs. Seconds of a busy machine mean
nothing; the load average is printed beside them.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from clocks import machine, steps_into, timed
from workload import natural_lengths, questions

FAKES = ("generate (fake)", "forward (fake)")
OTHERS = ("reward", "optimizer", "sync")
GROUP = 8
"""Responses to a prompt, as the recipe has it."""


def fakes(rows: int, longest: int, mean: float) -> None:
    """Replace sampling and the forward pass by numbers that were made beforehand."""
    from didact.core.backends import forward, hf_generator
    from didact.core.types import Request, Sample, Sampling

    draw = torch.Generator().manual_seed(1)
    lengths = natural_lengths(rows, longest, mean)
    drawn = [torch.randint(10, 90, (length,), generator=draw) for length in lengths]
    logprobs = [-torch.rand(length, generator=draw) for length in lengths]

    def generate(self: Any, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        return [
            Sample(drawn[at % rows], logprobs[at % rows], lengths[at % rows] >= longest, self.count)
            for at in range(len(requests))
        ]

    def read_out(self: Any, rows: Any, live: Any, watched: Any = frozenset()) -> torch.Tensor:
        width = max(len(response) for _, response in rows)
        weight = next(iter(self.model.parameters())).view(-1)[:1]
        return weight * 0.0 + torch.full((len(rows), width, len(live | watched)), -1.0)

    hf_generator.HFGenerator.generate = generate  # type: ignore[method-assign, assignment]
    forward.Readouts.forward = read_out  # type: ignore[method-assign]


def overrides(folder: Path, chosen: argparse.Namespace) -> list[str]:
    """The recipe's workload: W1's prompts, responses and batch, and a tiny model to hold it."""
    file = folder / "questions.jsonl"
    questions(file, chosen.prompts * 4)
    from didact.core.backends.models import quickstart_model

    model = {
        "tokenizer": "characters",
        "config": quickstart_model() | {"max_position_embeddings": 2048},
    }
    return [
        f"steps={chosen.steps}",
        "evaluation=null",
        "base=null",
        f"models.policy={json.dumps(model)}",
        f"task={json.dumps({'use': 'jsonl', 'path': str(file)})}",
        f"sampler.prompts={chosen.prompts}",
        "prompt.max_tokens=200",
        f"sampling.max_tokens={chosen.longest}",
        f"rewards={json.dumps({'correct': {'use': 'linear_length', 'per': 1000}})}",
        "learner={use: torch, max_tokens: 32768}",
    ]


def profiled(profile: cProfile.Profile) -> None:
    """From now on the profiler sees the steps of a run, and nothing else."""
    from didact.core import session

    inner = session.train

    def watched(*arguments: Any) -> Iterator[Any]:
        steps = inner(*arguments)
        while True:
            profile.enable()
            groups = next(steps, None)
            profile.disable()
            if groups is None:
                return
            yield groups

    session.train = watched  # type: ignore[assignment]


def train(
    chosen: argparse.Namespace, profile: cProfile.Profile | None = None
) -> list[dict[str, float]]:
    """Run the steps; the seconds of each by part, the framework's own clocks included."""
    from didact.configs import launch
    from didact.core import score, session
    from didact.core.backends import forward, hf_generator, optim

    fakes(chosen.prompts * GROUP, chosen.longest, chosen.mean)
    spent: dict[str, float] = defaultdict(float)
    timed(hf_generator.HFGenerator, "generate", "generate (fake)", spent)
    timed(forward.Readouts, "forward", "forward (fake)", spent)
    timed(optim.NamedAdamW, "step", "optimizer", spent)
    timed(hf_generator.HFGenerator, "sync", "sync", spent)
    timed(score, "_call", "reward", spent)
    marks: list[dict[str, float]] = []
    steps_into(marks, spent)
    if profile is not None:
        profiled(profile)
    told: dict[str, float] = defaultdict(float)
    timed(session, "notify", "observers", told)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        launch.train_recipe(chosen.recipe, overrides(Path(folder), chosen), out=out, quiet=True)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    stages = [
        {k.removeprefix("seconds/"): v for k, v in line.items() if k.startswith("seconds/")}
        for line in lines
        if line["kind"] == "train"
    ]
    each = told["observers"] / max(len(marks), 1)
    return [
        {**mark, "observers": each, **{f"in {k}": v for k, v in stage.items() if k != "step"}}
        for mark, stage in zip(marks, stages, strict=True)
    ][1:]


def described(marks: Sequence[dict[str, float]]) -> list[str]:
    """The median step by part; framework is what neither a fake nor a part of the method took."""

    def middle(name: str) -> float:
        return statistics.median(mark.get(name, 0.0) for mark in marks)

    outside = (*FAKES, *OTHERS)
    own = statistics.median(m["step"] - sum(m.get(name, 0.0) for name in outside) for m in marks)
    lines = [
        f"step {middle('step'):.3f} s (median of {len(marks)})",
        f"  {'framework':24} {own:.4f} s",
        f"  {'observers':24} {middle('observers'):.4f} s, after the step (mean)",
    ]
    lines += [f"  {name:24} {middle(name):.4f} s" for name in outside]
    stages = sorted({name for mark in marks for name in mark if name.startswith("in ")})
    return [*lines, *(f"    {name:22} {middle(name):.4f} s, all included" for name in stages)]


def offenders(profile: cProfile.Profile, steps: int, count: int = 25) -> list[str]:
    """The functions that take most time themselves, per step; the profiler makes them slower."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    lines = ["", "per step under the profiler: own s, with callees s, calls, where"]
    for where, (_, calls, own, total, _) in sorted(stats.items(), key=lambda i: -i[1][2])[:count]:
        file = "/".join(Path(where[0]).parts[-2:])
        each = f"{own / steps:.4f} {total / steps:.4f} {calls / steps:9.0f}"
        lines.append(f"  {each}  {file}:{where[1]} {where[2]}")
    return lines


def main() -> int:
    """Read the command line, run, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--recipe", default="grpo")
    options.add_argument("--prompts", type=int, default=64)
    options.add_argument("--longest", type=int, default=1024)
    options.add_argument("--mean", type=float, default=250.0)
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--profile", action="store_true")
    chosen = options.parse_args()
    sys.stdout.write(f"{machine(torch.device('cpu'))}\n")
    profile = cProfile.Profile() if chosen.profile else None
    lines = described(train(chosen, profile))
    lines += offenders(profile, chosen.steps) if profile is not None else []
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
