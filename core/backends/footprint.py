"""How many bytes a model takes while it is held, while it learns and while it generates.

The layers counted are those of Llama, Qwen and their like, as transformers writes them: what each
keeps for its backward pass was read off autograd, and the sums agree with measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

Bytes = dict[str, float]
PER_LOGIT = 20
"""Bytes at the peak of a chunk of logits: five float32 copies, in float32 and bfloat16 models."""
LIVE = 1e9
"""Most sharded parameters that DeepSpeed holds whole at once (its stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes.

    Attributes:
        parameters: all of them, tied ones once.
        trained: those that learn.
        queries, keys: widths of all query heads and of all key heads.
        inner: width of the gated layer.
        normed: queries and keys are normalised, as in Qwen3.
    """

    parameters: int
    trained: int
    hidden: int
    layers: int
    heads: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    normed: bool

    @staticmethod
    def of(model: nn.Module, config: Any, trained: int | None = None) -> Shape:
        """Of a model, which may be one without weights (`torch.device("meta")`)."""
        text = config.get_text_config()
        heads = int(text.num_attention_heads)
        size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        count = sum(int(p.numel()) for p in model.parameters())
        return Shape(
            parameters=count,
            trained=count if trained is None else trained,
            hidden=int(text.hidden_size),
            layers=int(text.num_hidden_layers),
            heads=heads,
            queries=heads * size,
            keys=int(getattr(text, "num_key_value_heads", None) or heads) * size,
            inner=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
            vocabulary=int(text.vocab_size),
            normed=any(name.endswith("q_norm.weight") for name, _ in model.named_parameters()),
        )


@dataclass(frozen=True)
class Training:
    """How a model learns.

    Attributes:
        width: bytes of a parameter: 4 in float32, 2 in bfloat16.
        stage: of ZeRO; None: plain torch in one process.
        ranks: processes that share the work.
        optimizers: each has two moments of every trained parameter.
        tokens: of a full micro-batch.
        responses: of them those whose logits are made.
        logits: most logits made at once.
        bucket: gradients that DeepSpeed reduces at once.
        checkpointing: activations are computed again.
        varlen: attention reads packed rows; otherwise it pads them first.
        offload: masters and moments leave the device between updates.
    """

    width: int = 4
    stage: int | None = None
    ranks: int = 1
    optimizers: int = 1
    tokens: int = 16384
    responses: int = 16384
    logits: int = 2**27
    bucket: int = 2**26
    checkpointing: bool = False
    varlen: bool = False
    offload: bool = False


def held(shape: Shape, how: Training) -> Bytes:
    """What lies on the device of each process between two updates, without `offload`."""
    half, stage = how.width == 2, how.stage
    share = shape.trained / (how.ranks if stage else 1)
    out: Bytes = {"weights": how.width * shape.parameters / (how.ranks if stage == 3 else 1)}
    if not how.optimizers:
        return out
    out["moments"] = 8 * how.optimizers * share
    if half or stage:
        out["masters"] = 4 * share
    if stage == 1 and half:
        out["gradients"] = 4.0 * shape.trained
    if stage == 3:
        out["gradients"] = 4 * share
        out["buckets"] = float(how.width * min(how.bucket, shape.trained))
    return out


def lent(shape: Shape, how: Training) -> float:
    """What of it leaves the device between updates: with `offload`, all but the weights."""
    at = held(shape, how)
    return total(at) - at["weights"] if how.offload else 0.0


def learning(shape: Shape, how: Training) -> Bytes:
    """What an update takes beside that at its peak, from its second micro-batch on."""
    return max(_peaks(shape, how), key=lambda parts: sum(parts.values()))


def _peaks(shape: Shape, how: Training) -> list[Bytes]:
    """At the first chunk of logits, in the last layer, and when all gradients are there."""
    before, after = _gradients(shape, how)
    layer = per_layer(shape, how) * how.tokens
    kept = (how.width * shape.hidden * how.tokens if how.checkpointing else layer) * shape.layers
    kept += how.tokens * shape.hidden * (4 + 2 * how.width)
    again = layer if how.checkpointing else 0.0
    passing = 2.5 * how.width * shape.inner * how.tokens
    chunk = PER_LOGIT * float(min(how.logits, how.responses * shape.vocabulary))
    chunk += how.width * shape.hidden * (how.responses + 2 * shape.vocabulary)
    return [
        {**before, "activations": kept, "logits": chunk},
        {**before, "activations": kept + again + passing},
        after,
    ]


def _gradients(shape: Shape, how: Training) -> tuple[Bytes, Bytes]:
    """While activations are there, and at the end; what `held` counts already is not in them."""
    count, width, stage = shape.trained, how.width, how.stage
    bucket = float(width * min(how.bucket, count))
    if stage is None:
        passing = width * count if width == 2 else width * shape.hidden * shape.vocabulary
        return {"gradients": 4.0 * count}, {"gradients": 4.0 * count + passing}
    if stage == 0:
        return {"gradients": 4.0 * count}, {"gradients": 8.0 * count}
    if stage == 1 and width == 2:
        return {"gradients": 2.0 * count}, {"gradients": 4.0 * count}
    if stage == 1:
        return {"gradients": 4.0 * count, "buckets": bucket}, {"gradients": 8.0 * count / how.ranks}
    if stage == 2:
        part = 4.0 * count / how.ranks
        return {"gradients": part, "buckets": bucket}, {"gradients": 2 * part, "buckets": bucket}
    whole = width * min(shape.parameters, LIVE) if how.ranks > 1 else 0.0
    return {"gathered": whole}, {"gradients": 4.0 * count / how.ranks, "buckets": bucket}


def per_layer(shape: Shape, how: Training) -> float:
    """Bytes that a decoder layer keeps of a token for its backward pass.

    Two norms keep their input in float32, the normalised and the scaled value; the gated layer both
    halves, the activation and the product; attention its inputs and its output, padded ones too.
    """
    width, ends = how.width, shape.queries + shape.keys
    attention = 2 * width * ends * (1 if how.varlen else 2)
    norms = 2 * shape.hidden * (4 + 2 * width) + (ends * (4 + width) if shape.normed else 0)
    return norms + attention + 4 * width * shape.inner + 4 * shape.heads


def cache(shape: Shape, width: int, positions: int) -> float:
    """Keys and values of so many cached positions."""
    return 2.0 * width * shape.layers * shape.keys * positions


def decoding(
    shape: Shape, width: int, rows: int, prompt: int, response: int, per_logit: int
) -> Bytes:
    """What so many rows take while they are decoded together, beside the weights.

    The most is there in the last layer of the prompts, whose responses are not cached yet, or in
    the last step, while tokens are drawn or a layer's keys or values are copied to make room.

    Args:
        per_logit: bytes that drawing holds of each, beside the logits themselves.
    """
    full = cache(shape, width, rows * (prompt + response))
    layer = width * (3 * shape.inner + 4 * shape.hidden + 2 * shape.queries // shape.heads)
    first = float(layer * rows * prompt) - cache(shape, width, rows * response)
    last = max(float((per_logit + width) * rows * shape.vocabulary), full / (2 * shape.layers))
    return {"key-value cache": full, "temporaries": max(first, last)}


def total(parts: Mapping[str, float]) -> float:
    """The sum of all parts."""
    return sum(parts.values())
