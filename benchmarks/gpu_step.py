"""A training step on a GPU, beside its floor and beside TRL's, each in a process of its own.

    VLLM_USE_FLASHINFER_SAMPLER=0 python benchmarks/gpu_step.py --json result.json
    python benchmarks/gpu_step.py --only didact,trl_tuned --rounds 3   # fewer contestants
    python benchmarks/gpu_step.py --scale tiny                         # tries the script on a CPU

Workload W1: a 0.5B model with random weights in bfloat16, 64 prompts of 64-128 tokens x 8 responses
of at most 1024 tokens, about 250 on average. The floor is measured between didact's steps, on the
same prompts and tokens: the bare engine, then one packed forward and backward. A contestant that
cannot run is named with its reason. Needs didact installed (`pip install -e .`), vLLM, and for
TRL's part TRL. Seconds hold for this machine now: compare only those of one call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTESTANTS = ("didact", "didact_ahead", "trl_default", "trl_tuned")
COLUMNS = (
    *("step", "generate", "sync", "log-probability", "update", "idle", "tokens_per_second"),
    *("peak_gib", "gpu_used_gib", "floor generate", "floor update", "floor"),
)
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
GPU = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}


@dataclass(frozen=True)
class Bar:
    """What must be reached.

    Attributes:
        measured: None if one side was not measured.
    """

    what: str
    limit: float
    at_most: bool
    measured: float | None

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        if self.measured is None:
            return f"{self.what}: {sign} {self.limit:g}; not measured"
        verdict = "met" if self.met else "missed"
        return f"{self.what}: {sign} {self.limit:g}; measured {self.measured:.2f}, {verdict}"


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every number over all steps of all rounds."""
    out = {}
    counted = [{**step, "tokens_per_second": step["tokens"] / step["step"]} for step in steps]
    for name in COLUMNS:
        values = [step[name] for step in counted if name in step]
        if values:
            out[name] = statistics.median(values)
    return out


def bars(found: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """The bars, with what was measured."""

    def ratio(one: str, other: str, column: str, below: str | None = None) -> float | None:
        if one not in found or other not in found:
            return None
        return found[one][column] / found[other][below or column]

    speed = "tokens_per_second"
    return [
        Bar("a step / its floor", 1.1, True, ratio("didact", "didact", "step", "floor")),
        Bar("tokens/s / best-tuned TRL's", 1.3, False, ratio("didact", "trl_tuned", speed)),
        Bar("tokens/s / default TRL's", 2.0, False, ratio("didact", "trl_default", speed)),
        Bar(
            "a step with staleness 1 / the synchronous floor",
            1.0,
            True,
            ratio("didact_ahead", "didact", "step", "floor"),
        ),
    ]


def alone(name: str, home: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """One contestant in a process of its own, so that memory and engines do not meet."""
    out = home / f"{name}.json"
    command = [sys.executable, __file__, "--inside", name, "--home", str(home), "--json", str(out)]
    command += ["--scale", chosen.scale, "--steps", str(chosen.steps)]
    for option, given in (("--set", chosen.set), ("--trl", chosen.trl)):
        command += [word for one in given for word in (option, one)]
    try:
        done = subprocess.run(
            command,
            env={**QUIET, **GPU, **os.environ},
            capture_output=True,
            text=True,
            timeout=chosen.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"steps": [], "failed": f"took more than {chosen.timeout} s"}
    if done.returncode or not out.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = lines[-1].strip() if lines else "no message"
        return {"steps": [], "failed": told, "log": lines[-60:]}
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    return result


def inside(chosen: argparse.Namespace) -> None:
    """Be one contestant."""
    import gpu_contestants
    from gpu_workload import SCALES

    scale, home = SCALES[chosen.scale], chosen.home
    steps = chosen.steps + 1  # the first one warms up
    if chosen.inside.startswith("trl"):
        more = dict(given.split("=", 1) for given in chosen.trl)
        tuned = {name: json.loads(value) for name, value in more.items()}
        default = chosen.inside == "trl_default"
        result = gpu_contestants.trl(home, scale, steps, None if default else tuned)
    else:
        ahead = chosen.inside == "didact_ahead"
        result = gpu_contestants.didact(home, scale, steps, chosen.set, ahead)
    chosen.json.write_text(json.dumps(result), encoding="utf-8")


def table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each contestant."""
    lines = [f"| median of a step | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for name, row in found.items():
        cells = [f"{row[column]:.3f}" if column in row else "" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def compared(chosen: argparse.Namespace, home: Path, here: str) -> list[Bar]:
    """All contestants in turn, round by round; what is known so far is printed and kept."""
    steps: dict[str, list[dict[str, float]]] = defaultdict(list)
    notes: dict[str, Any] = {}
    reached: list[Bar] = []
    for turn in range(chosen.rounds):
        for name in chosen.only.split(","):
            result = alone(name, home, chosen)
            steps[name] += result.pop("steps")
            notes[f"{name}, round {turn + 1}"] = result
            said = f"failed: {result['failed']}" if "failed" in result else result["note"]
            sys.stdout.write(f"round {turn + 1}, {name}: {said}\n")
            sys.stdout.flush()
            found = {name: medians(rows) for name, rows in steps.items() if rows}
            reached = bars(found)
            told = [{"bar": str(bar), "measured": bar.measured, "met": bar.met} for bar in reached]
            document = {"machine": here, "scale": chosen.scale, "medians": found, "bars": told}
            if chosen.json:  # after each contestant, should the time for the command end
                whole = {**document, "notes": notes, "steps": steps}
                chosen.json.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        sys.stdout.write("\n" + "\n".join([*table(found), "", *map(str, reached), "", ""]))
        sys.stdout.flush()
    return reached


def main() -> int:
    """Print table and bars; the exit status is 1 if a measured bar was missed at W1."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--scale", choices=["w1", "tiny"], default="w1")
    options.add_argument("--only", default=",".join(CONTESTANTS), help="contestants, with commas")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--steps", type=int, default=4, help="of each contestant in each round")
    options.add_argument("--timeout", type=float, default=600, help="seconds for one of them")
    options.add_argument("--set", action="append", default=[], help="didact: key=value")
    options.add_argument("--trl", action="append", default=[], help="best-tuned TRL: key=json")
    options.add_argument("--json", type=Path, help="write everything that was measured here")
    options.add_argument("--inside", help=argparse.SUPPRESS)
    options.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.inside:
        inside(chosen)
        return 0
    import torch
    from clocks import machine
    from gpu_workload import SCALES, prepare

    cuda = torch.cuda.is_available()
    if chosen.scale == "w1" and not cuda:
        sys.stderr.write("there is no GPU here: W1 needs one; --scale tiny tries the script\n")
        return 2
    here = machine(torch.device("cuda" if cuda else "cpu"))
    sys.stdout.write(f"{chosen.scale} on {here}\n")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), SCALES[chosen.scale])
        reached = compared(chosen, Path(folder), here)
    if chosen.scale == "tiny":
        sys.stdout.write("(tiny: the script was tried; the figures say nothing about a GPU)\n")
    return int(chosen.scale == "w1" and any(bar.met is False for bar in reached))


if __name__ == "__main__":
    sys.exit(main())
