"""Evaluation: greedy and sampled answers to a fixed set of problems, and what they amount to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import comb
from pathlib import Path
from typing import Any

from didact.core.pipeline import Pipeline
from didact.core.protocols import Run, TaskSource
from didact.core.types import Group

BINS = ("easy", "medium", "hard", "hardest")


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that at least one of k answers drawn without replacement from n is correct.

    Unbiased for k <= n. Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    if k > n:
        raise ValueError(f"pass@{k} is undefined for {n} answers")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def difficulty(rate: float) -> str:
    """The bin of a problem by the base model's success rate on it.

    Edges of ReLIFT, arXiv:2506.07527 (8 answers): easy >= 0.75, medium >= 0.375, hard > 0,
    hardest = 0.
    """
    if rate >= 0.75:
        return "easy"
    if rate >= 0.375:
        return "medium"
    return "hard" if rate > 0 else "hardest"


@dataclass(frozen=True)
class Answered:
    """How one problem went.

    Attributes:
        greedy: success of the greedy answer, None if there is none.
        successes: success of each sampled answer.
        answers: texts, the greedy one first; `lengths` and `rewards` in the same order.
    """

    id: str
    question: Any
    answer: Any
    metadata: Mapping[str, Any]
    greedy: float | None
    successes: tuple[float, ...]
    answers: tuple[str, ...]
    lengths: tuple[int, ...]
    rewards: tuple[float, ...]
    truncated: int
    bin: str | None = None

    def row(self) -> dict[str, Any]:
        """As plain data, one line of an evaluation file."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class Evaluation:
    """A fixed set of problems and how they are put to the policy.

    Attributes:
        greedy: rollout at temperature 0 and score; None to leave it out.
        sampled: rollout of several answers and score; None to leave it out.
        every: steps between evaluations; 0 only at the end.
        sampled_every: sampled answers at intermediate evaluations too.
        by: metadata keys that accuracy is broken down by.
        bins: break down by base difficulty, measured on the first model evaluated.
        kl: also `eval/kl_start`, in nats per token: the mean of log pi - log pi_ref over the tokens
            of the sampled answers, an unbiased estimate of how far the policy is from its start.
    """

    task: TaskSource
    greedy: Pipeline | None
    sampled: Pipeline | None
    every: int = 0
    sampled_every: bool = False
    ks: Sequence[int] = (1,)
    by: Sequence[str] = ()
    bins: bool = False
    kl: bool = False
    chunk: int = 256

    def __call__(
        self,
        run: Run,
        *,
        final: bool = True,
        bins: Mapping[str, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[list[Answered], dict[str, float]]:
        """Answer every problem; returns the answers in order, and metrics named `eval/…`."""
        aside = replace(run, metrics={}, seconds={}, scored={})
        pipelines = {"greedy": self.greedy} if self.greedy else {}
        if self.sampled and (final or self.sampled_every or not self.greedy):
            pipelines["sampled"] = self.sampled
        answered: list[Answered] = []
        gaps: list[float] = []
        for start in range(0, len(self.task), self.chunk):
            indices = range(start, min(start + self.chunk, len(self.task)))
            problems = [self.task[at] for at in indices]
            groups = [Group(prompt) for prompt in run.renderer.prompts(problems)]
            done = {name: _aligned(groups, pipe(groups, aside)) for name, pipe in pipelines.items()}
            answered += [
                _answered({name: by[at] for name, by in done.items()}, bins)
                for at in range(len(groups))
            ]
            if self.kl and "sampled" in done:
                gaps += _gaps(done["sampled"], run)
            if progress is not None:
                progress(len(answered), len(self.task))
        metrics = self.summary(answered)
        metrics["eval/failed"] = aside.metrics.get("reward/failed", 0.0)
        if gaps:
            metrics["eval/kl_start"] = sum(gaps) / len(gaps)
        return answered, metrics

    def summary(self, answered: Sequence[Answered]) -> dict[str, float]:
        """Metrics over all problems, by each metadata key, and by base difficulty."""
        parts: dict[str, list[Answered]] = {"": list(answered)}
        for item in answered:
            for key in self.by:
                parts.setdefault(f"/{key}={item.metadata.get(key)}", []).append(item)
            if item.bin is not None:
                parts.setdefault(f"/bin={item.bin}", []).append(item)
        metrics: dict[str, float] = {}
        for suffix, items in sorted(parts.items()):
            metrics |= {f"eval/{k}{suffix}": v for k, v in measures(items, self.ks).items()}
        return metrics


def _gaps(groups: Sequence[Group], run: Run) -> list[float]:
    """log pi - log pi_ref of every sampled token."""
    rows = [member for group in groups for member in group.members]
    rows = list(run.frozen["ref"].freeze(rows, frozenset({"ref_logprobs"})))
    gaps = [row.columns["behavior_logprobs"] - row.columns["ref_logprobs"] for row in rows]
    return [float(value) for gap in gaps for value in gap]


def _aligned(asked: Sequence[Group], answered: Sequence[Group]) -> Sequence[Group]:
    """The answers in the order of the problems; a problem whose rewards all failed has none."""
    if len(answered) == len(asked):
        return answered
    left: dict[str, list[Group]] = defaultdict(list)  # a problem may be there more than once
    for group in reversed(answered):
        left[group.prompt.id].append(group)
    return [left[group.prompt.id].pop() if left[group.prompt.id] else group for group in asked]


def _answered(groups: Mapping[str, Group], bins: Mapping[str, str] | None) -> Answered:
    problem = next(iter(groups.values())).prompt.problem
    members = [member for group in groups.values() for member in group.members]
    first = groups["greedy"].members if "greedy" in groups else ()
    greedy = first[0].signals["success"] if first else None
    sampled = groups["sampled"].members if "sampled" in groups else ()
    return Answered(
        id=problem.id,
        question=problem.question,
        answer=problem.answer,
        metadata=dict(problem.metadata),
        greedy=greedy,
        successes=tuple(m.signals["success"] for m in sampled),
        answers=tuple(m.text for m in members),
        lengths=tuple(len(m.tokens) for m in members),
        rewards=tuple(m.signals["reward"] for m in members),
        truncated=sum(m.truncated for m in members),
        bin=bins.get(problem.id) if bins else None,
    )


def measures(items: Sequence[Answered], ks: Sequence[int]) -> dict[str, float]:
    """pass@1 greedy, avg@n, pass@k, mean length and share truncated of some problems.

    n is the number of answers asked for. An answer whose reward failed is left out of its problem;
    a problem with too few answers is left out of the measure that needs them.
    """
    out: dict[str, float] = {"problems": float(len(items))}
    greedy = [item.greedy for item in items if item.greedy is not None]
    if greedy:
        out["greedy"] = sum(greedy) / len(greedy)
    sampled = [item.successes for item in items if item.successes]
    n = max(map(len, sampled), default=0)
    if n:
        out[f"avg@{n}"] = sum(sum(one) / len(one) for one in sampled) / len(sampled)
        for k in ks:
            enough = [one for one in sampled if len(one) >= k]
            if 1 < k <= n and enough:
                each = [pass_at_k(len(one), int(sum(one)), k) for one in enough]
                out[f"pass@{k}"] = sum(each) / len(each)
    answers = sum(len(item.lengths) for item in items)
    if answers:
        out["length"] = sum(sum(item.lengths) for item in items) / answers
        out["truncated"] = sum(item.truncated for item in items) / answers
    return out


def base_bins(answered: Sequence[Answered]) -> dict[str, str]:
    """Bin of every problem by how often the (base) model's sampled answers were right; of one that
    is there more than once, by all of them."""
    found: dict[str, list[float]] = defaultdict(list)
    for item in answered:
        found[item.id] += item.successes
    return {id: difficulty(sum(each) / len(each)) for id, each in found.items() if each}


def binned(answered: Sequence[Answered], bins: Mapping[str, str]) -> list[Answered]:
    """The answers with the base difficulty of their problems."""
    return [replace(item, bin=bins.get(item.id)) for item in answered]


def write(answered: Sequence[Answered], file: Path) -> None:
    """One line a problem."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(item.row()) + "\n" for item in answered)
    file.write_text(lines, encoding="utf-8")
