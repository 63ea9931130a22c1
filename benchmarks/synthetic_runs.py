"""Makes run folders as a training leaves them, without training: for tests and for timing."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from didact.core.evaluate import Answered, Evaluation, difficulty, write
from didact.core.folder import RunFolder

LEVELS = 4


@dataclass(frozen=True)
class Kind:
    """A method as it shows: how much it gains on a question by the question's level.

    Attributes:
        gains: added to the chance of a right answer at the end, by level 1, 2, 3, …
        demonstrations: used per step.
        tokens: mean length of an answer.
    """

    gains: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    demonstrations: int = 0
    tokens: int = 24
    words: str = "so the answer is"


def chance(question: int, kind: Kind, shift: float, progress: float) -> float:
    level = question % LEVELS
    base = (0.85, 0.55, 0.2, 0.0)[level] + 0.1 * math.sin(question) * (level < LEVELS - 1)
    return min(1.0, max(0.0, base + progress * (kind.gains[level] + shift)))


def answered(
    question: int, kind: Kind, shift: float, progress: float, rng: random.Random, samples: int = 8
) -> Answered:
    p = chance(question, kind, shift, progress)
    right = [float(rng.random() < p) for _ in range(samples)]
    greedy = float(p > 0.5) if abs(p - 0.5) > 0.2 else float(rng.random() < p)
    said = [
        f"Apply the letters of word {question} in order; {kind.words} "
        f"{question if ok else rng.randrange(1000)}. " * 3
        for ok in [greedy, *right]
    ]
    base = chance(question, Kind(), 0.0, 0.0)
    return Answered(
        id=f"letters/{question}",
        question=f"What does chain {question} make of 'abc'? <b>Answer</b> with one word.",
        answer=str(question),
        metadata={"level": question % LEVELS + 1, "family": "letters"},
        greedy=greedy,
        successes=tuple(right),
        answers=tuple(said),
        lengths=tuple(kind.tokens + rng.randrange(8) for _ in said),
        rewards=(greedy, *right),
        truncated=0,
        bin=difficulty(round(base * 8) / 8),
    )


def metrics_of(step: int, steps: int, kind: Kind, rng: random.Random) -> dict[str, float]:
    progress = step / steps
    shift = sum(kind.gains) / len(kind.gains)
    row = {
        "reward/policy": 0.4 + shift * progress + rng.gauss(0, 0.05),
        "success/policy": 0.4 + shift * progress + rng.gauss(0, 0.05),
        "length/policy": kind.tokens + rng.gauss(0, 1),
        "truncated/policy": max(0.0, rng.gauss(0.02, 0.01)),
        "rl/entropy": 1.2 * math.exp(-2 * progress) + rng.gauss(0, 0.02),
        "rl/loss": rng.gauss(0, 0.1),
        "rl/grad_norm": abs(rng.gauss(0.5, 0.1)),
        "rl/kl": 0.05 * progress + abs(rng.gauss(0, 0.005)),
        "rl/mismatch/mean": abs(rng.gauss(0.001, 0.0005)),
        "rl/used/policy": 128.0,
        "tokens/generated": 128.0 * kind.tokens,
        "tokens/trained": 128.0 * kind.tokens + kind.demonstrations * 30,
        "seconds/step": 0.35,
        "seconds/rollout policy": 0.2,
        "seconds/score": 0.01,
        "seconds/update rl": 0.1,
        "seconds/sync": 0.02,
        "memory/peak_gib/process": 0.5 + 0.25 * progress,
    }
    if kind.demonstrations:
        row["sft/used/demonstration"] = float(kind.demonstrations)
        row["sft/loss"] = 1.0 - 0.5 * progress
    row |= {f"extra/metric {at}": rng.random() for at in range(15)}
    return row


def recipe_of(name: str, kind: Kind, seed: int, steps: int, every: int) -> Mapping[str, object]:
    phases: dict[str, object] = {"rl": {"rule": [{"use": "ppo_clip", "clip_low": 0.2}]}}
    if kind.demonstrations:
        phases["sft"] = {"take": {"origin": "demonstration"}, "rule": [{"use": "sft"}]}
    return {
        "about": f"{name}, made up",
        "seed": seed,
        "steps": steps,
        "base": "letters_base",
        "experience": [{"rollout": {"use": "policy", "n": 8}}, {"score": {}}],
        "phases": phases,
        "evaluation": {"task": {"use": "letters"}, "every": every, "by": ["level"], "bins": True},
    }


def make_run(
    path: Path,
    name: str,
    kind: Kind,
    *,
    seed: int = 0,
    steps: int = 100,
    questions: int = 200,
    every: int = 50,
    drift: float = 0.02,
    dice: int | None = None,
) -> Path:
    """Write a finished run's folder.

    Args:
        drift: standard deviation of what a seed adds to every question's chance.
        dice: seed of all chance; by default it follows from name and seed.
    """
    rng = random.Random(f"{name} {seed}" if dice is None else dice)
    shift = rng.gauss(0, drift)
    folder = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    folder.create(resume=False, recipe=yaml.safe_dump(recipe_of(name, kind, seed, steps, every)))
    folder.manifest.write_text(
        json.dumps({"seed": seed, "versions": {"didact": "0.1.0"}, "git": {}, "data": {}}),
        encoding="utf-8",
    )
    summary = Evaluation(task=(), greedy=None, sampled=None, ks=(1, 8), by=("level",)).summary
    with folder.metrics.open("w", encoding="utf-8") as out:
        for step in range(steps + 1):
            if step:
                row = {"step": step, "kind": "train", **metrics_of(step, steps, kind, rng)}
                out.write(json.dumps(row) + "\n")
            if step % every == 0 or step == steps:
                rows = [answered(q, kind, shift, step / steps, rng) for q in range(questions)]
                write(rows, folder.evaluation(step))
                out.write(json.dumps({"step": step, "kind": "evaluation", **summary(rows)}) + "\n")
    folder.final.mkdir()
    (folder.final / "config.json").write_text("{}", encoding="utf-8")
    trajectories(path, kind, steps, rng)
    return path


def trajectories(path: Path, kind: Kind, steps: int, rng: random.Random) -> None:
    with (path / "trajectories.jsonl").open("w", encoding="utf-8") as out:
        for step in range(1, steps + 1, 10):
            for prompt in (step, step + 1):
                for member in range(8):
                    right = float(rng.random() < 0.4)
                    row = {
                        "step": step,
                        "prompt": f"train/{prompt}",
                        "question": f"What does chain {prompt} make of 'xyz'?",
                        "response": f"{kind.words} {prompt if right else '</script> no'}",
                        "origin": "policy" if member else "demonstration",
                        "truncated": member == 7,
                        "version": step,
                        "tokens": kind.tokens,
                        "signals": {"reward": right, "success": right},
                        "feedback": [{"source": "critic", "text": "Check <i>step</i> two."}]
                        if member == 1
                        else [],
                    }
                    out.write(json.dumps(row) + "\n")


def make_comparison(
    out: Path, kinds: Mapping[str, Kind], seeds: Sequence[int], **settings: int | float
) -> Path:
    """Write a comparison's folder; the first method is the baseline."""
    for name, kind in kinds.items():
        for seed in seeds:
            make_run(out / "cells" / name / str(seed), name, kind, seed=seed, **settings)
    said = {
        "baseline": next(iter(kinds)),
        "labels": {name: name for name in kinds},
        "title": "Made-up comparison",
        "axis": "steps",
        "seeds": list(seeds),
    }
    (out / "comparison.json").write_text(json.dumps(said), encoding="utf-8")
    return out
