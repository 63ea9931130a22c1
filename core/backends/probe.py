"""Whether a generator serves the learner's weights: same log-probabilities, else which differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from didact.core.errors import RunError
from didact.core.protocols import Learner, Request, Sample, Sampling, World
from didact.core.seeds import seed_of
from didact.core.types import Problem, Prompt, Trajectory

Generate = Callable[[Sequence[Request], Sampling], Sequence[Sample]]
CONTEXTS, WIDTH, TOKENS = 8, 16, 4
THRESHOLDS = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""In nats: two correct engines differ by 1e-6 in float32 and 0.005 in bfloat16."""
SLICE = 4096
"""Rows that are held in float64 at a time."""


@dataclass(frozen=True)
class Probe:
    """Fixed contexts, continued by the generator and read out by the learner.

    It compares the log-probability that the generator reports for each token it drew with the
    learner's. So it needs nothing of an engine but what training needs, and it covers reading the
    context, the cache and decoding. It sees a wrong tensor if that moves these numbers by more than
    the threshold, not a wrong embedding of a token that none of the contexts has.

    Attributes:
        vocabulary: contexts are drawn from the ids below it.
        temperature: that of the learner's readouts, which both must use; > 0.
        threshold: largest mean absolute difference, in nats; one token may differ by ten times it.
    """

    vocabulary: int
    temperature: float
    threshold: float

    def gap(self, generate: Generate, learner: Learner, world: World) -> float:
        """The mean absolute difference in nats, or a tenth of the largest if that is more.

        With several ranks each one's generator continues a share of the contexts.
        """
        draw = torch.Generator().manual_seed(seed_of("probe"))
        count = max(CONTEXTS, world.size)
        ids = torch.randint(0, self.vocabulary, (count, WIDTH), generator=draw)
        requests = [Request(row, seed_of("probe", at)) for at, row in enumerate(ids)]
        sampling = Sampling(temperature=self.temperature, max_tokens=TOKENS)
        samples = world.map(lambda stripe: generate(stripe, sampling), requests)
        rows = [_row(request, sample) for request, sample in zip(requests, samples, strict=True)]
        read = learner.freeze(rows, frozenset({"probe_logprobs"}))
        theirs = torch.cat([sample.logprobs for sample in samples])
        ours = torch.cat([row.columns["probe_logprobs"] for row in read])
        apart = (theirs - ours).abs()
        return float(torch.maximum(apart.mean(), apart.max() / 10).nan_to_num(nan=torch.inf))

    def check(self, gap: float, version: int, search: Callable[[], str]) -> None:
        """Stop if the gap is above the threshold, and say what a search for the cause finds."""
        if gap > self.threshold:
            raise RunError(
                f"sync {version}: generator and learner give log-probabilities {gap:.2g} nats "
                f"apart for the same tokens (threshold {self.threshold:g}), so the generator "
                f"serves other weights, or computes otherwise. {search()}"
            )


def pattern(columns: int, dtype: torch.dtype) -> Tensor:
    """Fixed values in [-1, 1] that change from column to column, as a dtype holds them; float64."""
    return torch.arange(1, columns + 1, dtype=torch.float64).cos().to(dtype).double()


def product(weight: Tensor) -> Tensor:
    """A tensor in few numbers: each row times the pattern; float64 [rows]. One of one dimension is
    itself. Rows or columns that changed places change it, as does any other value."""
    if weight.ndim < 2:
        return weight.detach().double().reshape(-1).cpu()
    flat = weight.detach().reshape(-1, weight.shape[-1])
    fixed = pattern(flat.shape[-1], weight.dtype).to(flat.device)
    return torch.cat([part.double() @ fixed for part in torch.split(flat, SLICE)]).cpu()


@torch.no_grad()
def products_of_engine(model: nn.Module) -> dict[str, tuple[bool, list[float]]]:
    """`product` of every parameter of an engine's model, by the engine's names; whether exactly.

    Output heads and layers whose weight was packed away (on a CPU) are read through their own
    matrix product: what they compute is what counts.
    """
    out: dict[str, tuple[bool, list[float]]] = {}
    for prefix, module in model.named_modules():
        head = "LMHead" in type(module).__name__
        for name, value in module.named_parameters(recurse=False):
            found = product(value) if value.numel() and not head else None
            exact = found is not None
            if found is None and name == "weight":
                found = _through(module, value.dtype, value.device)
            if found is not None:
                out[f"{prefix}.{name}"] = exact, found.tolist()
    return out


def _through(module: Any, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """The product of a layer with the pattern, by the layer's own kernel."""
    method = getattr(module, "quant_method", None)
    columns = getattr(module, "input_size_per_partition", getattr(module, "embedding_dim", None))
    if method is None or not hasattr(method, "apply") or columns is None:
        return None
    fed = pattern(columns, dtype).to(device, dtype)[None]
    answer: Tensor = method.apply(module, fed, None)
    return answer[0].double().cpu()


def differing(
    engine: Mapping[str, tuple[bool, Sequence[float]]],
    weights: Iterable[tuple[str, Tensor]],
    fused: Mapping[str, Sequence[str]],
    dtype: torch.dtype,
) -> tuple[list[str], list[str]]:
    """The learner's tensors that an engine holds otherwise, and those that cannot be compared.

    Args:
        engine: from `products_of_engine`, all of the model (no tensor parallelism).
        weights: the learner's.
        fused: the engine's name of a module that holds several, to their names.
        dtype: of the engine's parameters.
    """
    ours = {name: value.detach().to(dtype) for name, value in weights}
    tied = next((name for name in ours if name.endswith("embed_tokens.weight")), "")
    apart, unknown, unmatched = [], set(ours), []
    for theirs, (exact, values) in engine.items():
        parts = _parts(theirs, fused, ours, tied)
        if not all(part in ours for part in parts):
            unmatched.append(f"{theirs} (not among the learner's)")
            continue
        at, seen = 0, torch.tensor(values, dtype=torch.float64)
        for part in parts:
            unknown.discard(part)
            mine = product(ours[part])
            if not _close(mine, seen[at : at + len(mine)], ours[part], exact):
                apart.append(part if theirs != "lm_head.weight" else f"lm_head.weight (of {part})")
            at += len(mine)
    return apart + ([] if unknown else unmatched), sorted(unknown)


def _parts(
    name: str, fused: Mapping[str, Sequence[str]], own: Mapping[str, Tensor], tied: str
) -> tuple[str, ...]:
    """The learner's names for one of the engine's."""
    pieces = name.split(".")
    if name == "lm_head.weight" and name not in own:
        return (tied,)
    for at, piece in enumerate(pieces):
        if piece in fused and name not in own:
            return tuple(".".join([*pieces[:at], part, *pieces[at + 1 :]]) for part in fused[piece])
    return (name,)


def _close(mine: Tensor, seen: Tensor, weight: Tensor, exact: bool) -> bool:
    """Equal row by row, up to rounding: in float64, or of a product in the weight's dtype."""
    if mine.shape != seen.shape:
        return False
    columns = weight.shape[-1] if weight.ndim > 1 else 1
    per_row = weight.detach().double().reshape(-1, columns).norm(dim=1).cpu() * columns**0.5
    dtype = torch.float64 if exact else weight.dtype
    room = 8 * torch.finfo(dtype).eps * per_row + 1e-12
    return bool(((mine - seen).abs() <= room).all())


def said(apart: Sequence[str], unknown: Sequence[str]) -> str:
    """What a comparison of tensors found, in words."""
    more = f" {len(unknown)} tensors could not be compared." if unknown else ""
    if unknown and not apart:
        return f"Which tensors differ is not known:{more}"
    if not apart:
        return "All tensors are equal, so the engines compute differently."
    shown = ", ".join(apart[:8]) + (f" and {len(apart) - 8} more" if len(apart) > 8 else "")
    return f"Tensors that differ: {shown}.{more}"


def _row(request: Request, sample: Sample) -> Trajectory:
    prompt = Prompt("probe", request.context, Problem("probe", ""))
    trainable = torch.ones(len(sample.tokens), dtype=torch.bool)
    return Trajectory(prompt, sample.tokens, trainable, "probe", version=sample.version)
