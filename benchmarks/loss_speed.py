"""What advantages, losses, weights and the rules around them cost beside a model's step.

    python benchmarks/loss_speed.py                    # every registered part, about 3 minutes
    python benchmarks/loss_speed.py --only gae,gspo    # some of them
    python benchmarks/loss_speed.py --step-seconds 1.2 # beside an update measured elsewhere

Bar: under 2 % of forward and backward of a 0.5B model for 512 x 1024 tokens. On a CPU one thread is
used and its own seconds are counted, so that other programs disturb little. The model is timed on a
few hundred tokens and scaled by their number; attention over longer rows is left out, which makes
the step too cheap and the shares too large, if anything.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from clocks import Taken, clock_of, machine
from workload import HALF_BILLION, mask_of, natural_lengths

from didact.algorithms.rules import Bound, Sum, Term
from didact.core.annotate import Annotate
from didact.core.phase import READOUTS
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.core.where import Range
from didact.plugins.manager import load
from didact.plugins.testing.advantages import step as advantage_inputs
from didact.plugins.testing.data import make_run
from didact.plugins.testing.part import Part, parts_of
from didact.plugins.testing.tensors import columns, world

BAR = 0.02
MEASURED = ("advantage", "loss", "weight")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Size:
    """How much is measured: rows of `width` columns, with natural lengths, in groups."""

    rows: int = 512
    width: int = 1024
    group: int = 8
    mean: float = 250.0
    prompt: int = 96

    @property
    def lengths(self) -> list[int]:
        return natural_lengths(self.rows, self.width, self.mean)

    @property
    def tokens(self) -> int:
        """Prompts and responses as they are fed to the model, without padding."""
        return sum(self.lengths) + self.rows * self.prompt


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    name: str
    taken: Taken


def examples() -> dict[str, Any]:
    """Settings of the parts that need some, as their tests have them."""
    file = Path(__file__).parents[1] / "tests" / "plugins" / "test_contracts.py"
    spec = importlib.util.spec_from_file_location("contracts", file)
    assert spec and spec.loader
    contracts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contracts)
    found: dict[str, Any] = contracts.EXAMPLES
    return found


def parts(only: Sequence[str]) -> Iterator[Part]:
    """The built-in estimators, losses and weights."""
    for part in parts_of(load(installed=False), "didact", examples()):
        if part.entry.kind in MEASURED and (not only or part.entry.name in only):
            yield part


def call_of(part: Part, size: Size, device: torch.device) -> Callable[[], object]:
    """A call of a part as a step makes it: losses forward and backward, in float32 on the device;
    advantages in float64 on the CPU."""
    function = part.make()
    if part.entry.kind == "advantage":
        groups = [size.group] * (size.rows // size.group)
        given = advantage_inputs(function, part.example, groups, lengths_of=size.lengths)
        arguments = given.arguments(function)
        return lambda: function(**arguments)
    mask = mask_of(size.lengths, size.width)
    inputs = world(function, part.example, dtype=torch.float32, mask=mask)
    given_columns = {name: value.to(device) for name, value in columns(function, inputs).items()}
    live = sorted(READOUTS & set(given_columns))
    for name in live:
        given_columns[name].requires_grad_(part.entry.kind == "loss")
    if part.entry.kind == "weight":
        return lambda: function(**given_columns)
    inside, leaves = mask.to(device), [given_columns[name] for name in live]

    def both() -> None:
        value = torch.where(inside, function(**given_columns), 0.0).sum()
        torch.autograd.grad(value, leaves, allow_unused=True)

    return both


def rows_of(size: Size) -> list[Group]:
    """Groups as `score` leaves them, with the sampler's log-probabilities."""
    draw = torch.Generator().manual_seed(0)
    lengths = iter(size.lengths)
    groups = []
    for at in range(size.rows // size.group):
        prompt = Prompt(str(at), torch.zeros(size.prompt, dtype=torch.int64), Problem(str(at), ""))
        members = []
        for k in range(size.group):
            length = next(lengths)
            noise = torch.rand(2, length, generator=draw)
            members.append(
                Trajectory(
                    prompt,
                    torch.zeros(length, dtype=torch.int64),
                    torch.ones(length, dtype=torch.bool),
                    "policy",
                    version=0,
                    signals={"reward": float((at + k) % 2)},
                    columns={"behavior_logprobs": -noise[0], "old_logprobs": -noise[1]},
                )
            )
        groups.append(Group(prompt, tuple(members)))
    return groups


def framework(size: Size, device: torch.device, micro: int) -> Iterator[tuple[str, str, Any]]:
    """What the framework does around the pure functions: the stage, and a rule in micro-batches."""
    from didact.core.batch import Batch

    registry = load(installed=False)
    part = {name: registry.get(kind, name).factory for kind, name in USED}
    stage, run = Annotate(part["group_norm"]), make_run()
    groups = rows_of(size)
    yield "stage", "advantage: group_norm", lambda: stage(groups, run)
    rows = tuple(row for group in stage(groups, run) for row in group.leaving())
    clip = Term("clip", Bound(part["ppo_clip"]), times=[Bound(part["truncated_is"])])
    unlikely = {"old_logprobs": Range(below=-0.5)}
    rules = {
        "ppo_clip": Sum([Term("clip", Bound(part["ppo_clip"]))]),
        "sft of a range of tokens": Sum([Term("sft", Bound(part["sft"]), tokens=unlikely)]),
        "ppo_clip + truncated_is, sft": Sum([clip, Term("sft", Bound(part["sft"]))]),
    }
    order = sorted(range(len(rows)), key=lambda at: len(rows[at].tokens))
    pieces = [order[at : at + micro] for at in range(0, len(order), micro)]
    for label, rule in rules.items():

        def applied(rule: Any = rule) -> None:
            batch = Batch(rows)
            bound = rule.over(batch, 0)
            for piece in pieces:
                some = batch.take(piece)
                live = {"logprobs": torch.full(some.mask.shape, -1.0, device=device)}
                live["logprobs"].requires_grad_(True)
                torch.stack(list(bound(some, live).values())).sum().backward()

        yield "rule", f"{label} ({len(pieces)} micro-batches)", applied


USED = (
    ("advantage", "group_norm"),
    ("loss", "ppo_clip"),
    ("loss", "sft"),
    ("weight", "truncated_is"),
)


def seconds_per_token(
    dtype: str, device: torch.device, sample: int, repeat: int, config: dict[str, Any]
) -> tuple[Taken, int]:
    """Forward and backward of the model over a sample of tokens, and how many those are."""
    from didact.core.backends.forward import Readouts
    from didact.core.backends.models import ModelSpec, load_model, load_tokenizer

    spec = ModelSpec(config=config, tokenizer="characters", dtype=dtype)  # type: ignore[arg-type]
    reader = Readouts(load_model(spec, load_tokenizer(spec), device))
    prompt, response = sample // 4, sample - sample // 4
    rows = [(torch.zeros(prompt, dtype=torch.int64), torch.ones(response, dtype=torch.int64))]

    def both() -> None:
        reader.read(rows, frozenset({"logprobs"}))["logprobs"].sum().backward()
        reader.zero_grad(set_to_none=True)

    return Taken.by(both, repeat, clock_of(device)), sample


def table(measured: Sequence[Row], step: float, full: float) -> list[str]:
    """The measured rows by their cost, as a share of a step."""
    lines = [
        "| kind | name | ms (least) | ms (median) | of a natural step | of 512 x 1024 tokens |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(measured, key=lambda row: -row.taken.least):
        least, middle = row.taken.least, row.taken.median
        lines.append(
            f"| {row.what} | {row.name} | {1e3 * least:.1f} | {1e3 * middle:.1f} | "
            f"{least / step:.4%} | {least / full:.4%} |"
        )
    return lines


def measured(size: Size, device: torch.device, repeat: int, only: Sequence[str]) -> list[Row]:
    """Every part and what is around them."""
    clock = clock_of(device)
    found = [
        Row(part.entry.kind, part.entry.name, Taken.by(call_of(part, size, device), repeat, clock))
        for part in parts(only)
    ]
    if not only:
        found += [
            Row(what, name, Taken.by(call, repeat, clock))
            for what, name, call in framework(size, device, micro=32)
        ]
    return found


def main() -> int:
    """Print the table; the exit status says whether everything is under the bar."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", default="", help="names of parts, with commas")
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options.add_argument("--sample", type=int, default=0, help="tokens the model is timed on")
    options.add_argument("--step-seconds", type=float, help="an update's seconds, timed elsewhere")
    chosen = options.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, only = Size(), [name for name in chosen.only.split(",") if name]
    sys.stdout.write(f"{machine(device)}\n")
    found = measured(size, device, chosen.repeat, only)
    step, padded = chosen.step_seconds, size.rows * size.width
    if step is None:
        sample = chosen.sample or (32768 if device.type == "cuda" else 384)
        taken, tokens = seconds_per_token(chosen.dtype, device, sample, 3, HALF_BILLION)
        sys.stdout.write(
            f"0.5B model, {chosen.dtype}: {taken.least:.2f} s (least; median {taken.median:.2f} s) "
            f"of forward and backward for {tokens} tokens, scaled by tokens\n"
        )
        step = taken.least / tokens * size.tokens
    full = step / size.tokens * padded
    sys.stdout.write(
        f"a natural step: {size.rows} responses of {sum(size.lengths) / size.rows:.0f} tokens on "
        f"average in {size.width} columns, {size.tokens} tokens with prompts, {step:.2f} s; "
        f"all {padded} tokens: {full:.2f} s\n\n"
    )
    sys.stdout.write("\n".join(table(found, step, full)) + "\n")
    over = [row.name for row in found if row.taken.least >= BAR * step]
    sys.stdout.write(
        f"\n{len(found)} measured, above {BAR:.0%} of a natural step: {', '.join(over) or 'none'}\n"
    )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
