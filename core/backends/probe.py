"""Whether a generator serves the learner's weights: same log-probabilities, else which differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from didact.core.errors import RunError
from didact.core.protocols import Learner, World
from didact.core.seeds import seed_of
from didact.core.types import Problem, Prompt, Request, Sample, Sampling, Trajectory

Generate = Callable[[Sequence[Request], Sampling], Sequence[Sample]]
CONTEXTS, WIDTH, TOKENS = 8, 16, 4
THRESHOLDS = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""In nats: two correct engines differ by 1e-6 in float32 and up to 0.01 in bfloat16."""
SLICE = 2**22
"""Values that are held in float64 at a time."""
FED = 512
"""Unit vectors that a packed layer is given at a time."""


class Compared(NamedTuple):
    """What a comparison of tensors found, by the learner's names.

    Attributes:
        apart: the engine holds them otherwise.
        unknown: could not be compared.
        rough: compared only within the rounding of a product, and not apart.
    """

    apart: list[str]
    unknown: list[str]
    rough: list[str]


@dataclass(frozen=True)
class Probe:
    """Fixed contexts, continued by the generator and read out by the learner.

    It compares the log-probability that the generator reports for each token it drew with the
    learner's. So it needs nothing of an engine but what training needs, and it covers reading the
    context, the cache and decoding. It sees a wrong tensor if that moves these numbers by more than
    the threshold, not a wrong embedding of a token that none of the contexts has.

    In bfloat16 it sees only what is grossly wrong. A right engine is 0.006 to 0.01 nats off (a
    model of two layers on a CPU); a tied output head that was left behind while all weights moved
    by a standard deviation of 1e-3 gives 0.01, of 3e-3 0.02, of 1e-2 0.05, at a threshold of 0.03.
    Smaller faults are seen by comparing tensors (`differing`), which rounds to the dtype alike.

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
    parts = torch.split(flat, max(1, SLICE // len(fixed)))
    return torch.cat([part.double() @ fixed for part in parts]).cpu()


@torch.no_grad()
def products_of_engine(model: nn.Module) -> dict[str, tuple[bool, list[float]]]:
    """`product` of every parameter of an engine's model, by the engine's names; whether exactly.

    A weight that lies there as it is, is read. One that was packed (by vLLM on a CPU: those of
    linear layers, and the copy that an output head computes with) is read from the layer's answers
    to unit vectors, which hold its values unrounded in any dtype; that costs as much as a prompt of
    as many tokens as the layer has inputs. A quantised layer answers to the pattern: not exactly.
    """
    out: dict[str, tuple[bool, list[float]]] = {}
    for prefix, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        exact = method is None or type(method).__name__.startswith("Unquantized")
        copied = "LMHead" in type(module).__name__ and hasattr(module, "cpu_linear")
        for name, value in module.named_parameters(recurse=False):
            through = name == "weight" and (copied or not exact or not value.numel())
            found = _answers(module, value, exact) if through else product(value)
            if found is not None and (through or value.numel()):
                out[f"{prefix}.{name}"] = exact, found.tolist()
    return out


def _answers(module: Any, weight: Tensor, exact: bool) -> Tensor | None:
    """The product of a layer's weight, by the layer's own kernel."""
    method: Any = getattr(module, "quant_method", None)
    columns = getattr(module, "input_size_per_partition", getattr(module, "embedding_dim", None))
    dtype = weight.dtype if weight.dtype in THRESHOLDS else getattr(module, "params_dtype", None)
    if not hasattr(method, "apply") or columns is None or dtype is None:
        return None
    fixed = pattern(columns, dtype).to(weight.device)
    if not exact:
        answer: Tensor = method.apply(module, fixed.to(dtype)[None], None)
        return answer[0].double().cpu()
    found = torch.zeros((), dtype=torch.float64, device=weight.device)
    for at in range(0, columns, FED):
        part = fixed[at : at + FED]
        units = torch.zeros(len(part), columns, dtype=dtype, device=weight.device)
        units[:, at : at + FED].fill_diagonal_(1)
        answers = method.apply(module, units, None).split(SLICE // FED, dim=1)
        found = found + torch.cat([part @ some.double() for some in answers])
    return found.cpu()


def differing(
    engine: Mapping[str, tuple[bool, Sequence[float]]],
    weights: Iterable[tuple[str, Tensor]],
    fused: Mapping[str, Sequence[str]],
    dtype: torch.dtype,
) -> Compared:
    """The learner's tensors that an engine holds otherwise; one of them is held at a time.

    Args:
        engine: from `products_of_engine`, all of the model (no tensor parallelism).
        weights: the learner's.
        fused: the engine's name of a module that holds several, to their names.
        dtype: of the engine's parameters.
    """
    ours = {name: _summary(value.detach().to(dtype)) for name, value in weights}
    tied = next((name for name in ours if name.endswith("embed_tokens.weight")), "")
    found, unmatched = Compared([], [], []), []
    unknown = set(ours)
    for theirs, (exact, values) in engine.items():
        parts = _parts(theirs, fused, ours, tied)
        if not all(part in ours for part in parts):
            unmatched.append(f"{theirs} (not among the learner's)")
            continue
        at, seen = 0, torch.tensor(values, dtype=torch.float64)
        eps = torch.finfo(torch.float64 if exact else dtype).eps
        for part in parts:
            unknown.discard(part)
            mine, scale = ours[part]
            name = part if theirs != "lm_head.weight" else f"lm_head.weight (of {part})"
            if not _close(mine, seen[at : at + len(mine)], 8 * eps * scale + 1e-12):
                found.apart.append(name)
            elif not exact:
                found.rough.append(name)
            at += len(mine)
    return found._replace(
        apart=found.apart + ([] if unknown else unmatched), unknown=sorted(unknown)
    )


def _summary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor's product, and how large the sums behind it are; row by row, float64."""
    columns = weight.shape[-1] if weight.ndim > 1 else 1
    norms = torch.linalg.vector_norm(weight.reshape(-1, columns), dim=1, dtype=torch.float32)
    return product(weight), norms.double().cpu() * columns**0.5


def _parts(
    name: str, fused: Mapping[str, Sequence[str]], own: Mapping[str, object], tied: str
) -> tuple[str, ...]:
    """The learner's names for one of the engine's."""
    pieces = name.split(".")
    if name == "lm_head.weight" and name not in own:
        return (tied,)
    for at, piece in enumerate(pieces):
        if piece in fused and name not in own:
            return tuple(".".join([*pieces[:at], part, *pieces[at + 1 :]]) for part in fused[piece])
    return (name,)


def _close(mine: Tensor, seen: Tensor, room: Tensor) -> bool:
    """Equal row by row, up to a room for rounding."""
    return mine.shape == seen.shape and bool(((mine - seen).abs() <= room).all())


def said(apart: Sequence[str], unknown: Sequence[str], rough: Sequence[str] = ()) -> str:
    """What a comparison of tensors found, in words."""
    more = f" {len(unknown)} tensors could not be compared." if unknown else ""
    rounded = f"compared only within rounding: {_listed(rough)}." if rough else ""
    if rough and (apart or unknown):
        more += f" C{rounded[1:]}"
    if apart:
        return f"Tensors that differ: {_listed(apart)}.{more}"
    if unknown:
        return f"Which tensors differ is not known:{more}"
    if rough:
        return (
            f"All tensors are equal but those {rounded} They may differ by less than that, or the "
            f"engines compute differently."
        )
    return "All tensors are equal, so the engines compute differently."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _row(request: Request, sample: Sample) -> Trajectory:
    prompt = Prompt("probe", request.context, Problem("probe", ""))
    trainable = torch.ones(len(sample.tokens), dtype=torch.bool)
    return Trajectory(prompt, sample.tokens, trainable, "probe", version=sample.version)
