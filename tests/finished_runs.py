"""What tests of whole runs share: short recipes, and what a finished run left."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

LEARNS = ("rewards={correct: letters_answer, short: {use: linear_length, per: 100, weight: 0.1}}",)
SHUFFLED = ("phases.rl.shuffle=true", "phases.rl.batch_size=64")
RELIFT = ("steps=4", "phases.sft.when.at_least=4", *SHUFFLED, *LEARNS)


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(row: dict) -> dict:
    assert row["kind"] != "train" or row["memory/peak_gib/process"] > 0.1
    return {k: v for k, v in row.items() if "seconds" not in k and not k.startswith("memory/")}


def assert_same_model(one: Path, two: Path) -> None:
    first, second = parameters(one), parameters(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
