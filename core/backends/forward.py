"""The one forward pass of all learners: rows in, readouts per response token out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from didact.core.backends import alone
from didact.core.backends.attention import NAME, Packing, spans
from didact.core.backends.models import ValueModel
from didact.core.errors import RecipeError
from didact.core.phase import READOUTS
from didact.core.protocols import Names
from didact.core.ranks import RANK_STRIDES, rank_column

OF_LOGITS = READOUTS - {"values"}
Row = tuple[Tensor, Tensor]
"""Context int64 [P], P >= 1, and response int64 [T]."""


class Readouts(nn.Module):
    """A model, read out at the response tokens of rows.

    The readout for response token t is taken one position before it. The distribution is the one
    that is sampled from: logits are divided by the temperature. The last token of a row is not fed
    in, and logits are made at response positions only, in float32, in chunks of tokens that are
    computed again in the backward pass; `[tokens, vocabulary]` exists only if it fits in a chunk.

    Args:
        model: a causal language model of transformers, or a `ValueModel`.
        temperature: of the sampler whose rows are learned from; > 0.
        packing: all rows in one sequence without padding; otherwise padded on the right. The same
            function of the weights to 1e-6.
        chunk: most logits made at once (elements, 4 bytes each).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        packing: bool = True,
        chunk: int = 2**27,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise RecipeError(f"a learner's temperature must be above 0, not {temperature}.")
        self.model: Any = model
        self.temperature = temperature
        self.packing = packing
        self.chunk = chunk
        self.has_values = isinstance(model, ValueModel)
        if not self.has_values:
            _check_head(self.model, self.device)
        self._check_rows()

    @property
    def device(self) -> torch.device:
        return next(iter(self.model.parameters())).device  # type: ignore[no-any-return]

    @property
    def offers(self) -> frozenset[str]:
        """The readouts this model has."""
        return frozenset({"values"}) if self.has_values else OF_LOGITS

    def read(
        self, rows: Sequence[Row], live: Names, watched: Names = frozenset()
    ) -> dict[str, Tensor]:
        """Read out.

        Args:
            rows: at least one.
            live: readouts with gradient.
            watched: readouts without gradient, for reports.

        Returns:
            Each readout by name, float32 [B, T], T the longest response; 0 on padding.
        """
        return unpacked(self(rows, live, watched), live, watched)

    def forward(self, rows: Sequence[Row], live: Names, watched: Names = frozenset()) -> Tensor:
        """What `read` unpacks, [B, T, number of readouts].

        One tensor, because ZeRO-3 hooks every output that takes part in a backward pass, and ranks
        whose losses read different columns would fall out of step.
        """
        names = sorted(live | watched)
        lacking = (live | watched) - self.offers
        if lacking:
            raise RecipeError(
                f"this model cannot read out {sorted(lacking)}; it has {sorted(self.offers)}."
            )
        hidden, places = self._hidden(rows)
        read = hidden.index_select(0, places)
        targets = self._there(torch.cat([response for _, response in rows]))
        made = [name for name in names if name not in RANK_STRIDES]  # the ranks sort last
        flat = self._in_chunks(read, targets, made, watched - live) if made else None
        if len(made) < len(names):
            sizes = [len(response) for _, response in rows]
            flat = _with_ranks(flat, read.detach(), sizes, names[len(made) :])
        assert flat is not None
        lengths = torch.tensor([len(response) for _, response in rows])
        width = int(lengths.max())
        if not width:
            return hidden.sum() * hidden.new_zeros(len(rows), 0, len(names))
        cells = self._there(spans(torch.arange(len(rows)) * width, lengths))
        out = flat.new_zeros(len(rows) * width, len(names))
        return out.index_copy(0, cells, flat).view(len(rows), width, len(names))

    def _there(self, tensor: Tensor) -> Tensor:
        """On the model's device. A plain copy would first wait for all that the GPU has to do."""
        return tensor.to(self.device, non_blocking=True)

    def _hidden(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Hidden states of all positions [N, H], and which of them are read, int64 [sum T]."""
        fed = [torch.cat([c, r])[: max(len(c) + len(r) - 1, 1)] for c, r in rows]
        lengths = torch.tensor([len(tokens) for tokens in fed])
        body = self._body
        if self.packing:
            starts = lengths.cumsum(0) - lengths
            packing = Packing(lengths, self.device)
            ids = self._there(torch.cat(fed)[None])
            options = _packed_options(self.model.config._attn_implementation, packing)
            out = body(ids, position_ids=packing.positions, use_cache=False, **options)
        else:
            longest = int(lengths.max())
            starts = torch.arange(len(rows)) * longest
            ids = self._there(nn.utils.rnn.pad_sequence(fed, batch_first=True))
            out = body(ids, use_cache=False)
        firsts = starts + torch.tensor([len(context) - 1 for context, _ in rows])
        read = spans(firsts, torch.tensor([len(response) for _, response in rows]))
        return out.last_hidden_state.flatten(0, 1), self._there(read)

    @property
    def _body(self) -> Any:
        return self.model.model if self.has_values else self.model.base_model

    @torch.no_grad()
    def _check_rows(self) -> None:
        """Refuse models that make something else of rows side by side than of each alone."""
        size, config = self.model.config.vocab_size, self.model.config
        rows = alone.tried(size)
        own, other = (
            [
                self._body(self._there(ids)[None], use_cache=False).last_hidden_state[0]
                for ids in all_
            ]
            for all_ in (rows, [alone.begun_otherwise(row, size) for row in rows])
        )
        moved = torch.cat([b[1:] - a[1:] for a, b in zip(own, other, strict=True)])
        hidden, places = self._hidden([(row[:1], row.roll(-1)) for row in rows])
        if self.packing and alone.recurrent(config):
            what = "hands a state on from one packed row to the next"
        elif not alone.same(hidden[places], torch.cat(own), moved):
            what = "does not keep rows apart"
        else:
            return
        other_way = ", or set 'packing: false' in the learner" if self.packing else ""
        raise RecipeError(f"{alone.called(config)} {what}: give another 'attention'{other_way}.")

    def _in_chunks(
        self, hidden: Tensor, targets: Tensor, names: Sequence[str], watched: Names
    ) -> Tensor:
        if self.has_values:
            values: Tensor = self.model.head(hidden).float()
            return values
        most = max(self.chunk // self.model.config.vocab_size, 1)
        if len(hidden) <= most:
            return self._of_logits(hidden, targets, names, watched)
        parts = []
        for some, wanted in zip(torch.split(hidden, most), torch.split(targets, most), strict=True):
            if torch.is_grad_enabled():
                part = checkpoint(
                    self._of_logits, some, wanted, names, watched, use_reentrant=False
                )
            else:
                part = self._of_logits(some, wanted, names, watched)
            parts.append(part)
        return torch.cat(parts)

    def _of_logits(
        self, hidden: Tensor, targets: Tensor, names: Sequence[str], watched: Names
    ) -> Tensor:
        """Readouts of some tokens, float32 [n, len(names)]."""
        logits = _logits(self.model, hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature != 1.0:
            logits = logits / self.temperature
        total = logits.logsumexp(-1)
        return torch.stack(
            [
                readout(name, logits.detach(), total.detach(), targets)
                if name in watched
                else readout(name, logits, total, targets)
                for name in names
            ],
            -1,
        )


def unpacked(out: Tensor, live: Names, watched: Names) -> dict[str, Tensor]:
    """The columns of a forward pass by name; live ones first, watched ones without gradient."""
    columns = dict(zip(sorted(live | watched), out.unbind(-1), strict=True))
    first = {name: columns[name] for name in sorted(live)}
    return first | {name: columns[name].detach() for name in sorted(watched - live)}


def _logits(model: Any, hidden: Tensor) -> Tensor:
    """The output embedding as a function, so that chunks are no module calls (ZeRO-3 counts those,
    and ranks have different numbers of chunks)."""
    head = model.get_output_embeddings()
    return linear(hidden, head.weight, head.bias)


def readout(name: str, logits: Tensor, total: Tensor, targets: Tensor) -> Tensor:
    """One readout [n] of logits [n, V] whose logsumexp is `total` [n]."""
    match name:
        case "logprobs":
            return logits.gather(-1, targets[:, None])[:, 0] - total
        case "entropy":
            return total - ((logits - total[:, None]).exp() * logits).sum(-1)
        case "mean_logprobs":
            return logits.mean(-1) - total
        case "collision":
            return ((2 * logits).logsumexp(-1) - 2 * total).exp()
    raise RecipeError(f"there is no readout '{name}'.")


def _with_ranks(
    flat: Tensor | None, hidden: Tensor, sizes: Sequence[int], names: Sequence[str]
) -> Tensor:
    """Readouts [n, K] and, after them, those of ranks of the hidden states [n, H] of rows."""
    rows = torch.split(hidden, list(sizes))
    columns = [torch.cat([rank_column(row, RANK_STRIDES[name]) for row in rows]) for name in names]
    ranks = torch.stack(columns, -1)
    return ranks if flat is None else torch.cat([flat, ranks.to(flat)], -1)


def _packed_options(implementation: str, packing: Packing) -> dict[str, Any]:
    if implementation == NAME:
        return {"packing": packing}
    if implementation.startswith("flash"):
        ends, longest = packing.boundaries, packing.longest
        return {
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    return {}  # transformers finds the boundaries in position_ids, and makes a dense mask


@torch.no_grad()
def _check_head(model: Any, device: torch.device) -> None:
    """Refuse models whose logits are more than their output embedding of their hidden states."""
    ids = torch.arange(min(4, model.config.vocab_size), device=device)[None]
    theirs = model(ids, use_cache=False).logits.float()
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    ours = _logits(model, hidden).float()
    if not torch.allclose(ours, theirs, atol=0.02 * float(theirs.abs().max()) + 1e-6, rtol=0.02):
        raise RecipeError(
            f"model type '{model.config.model_type}' transforms its logits after the output "
            f"embedding (soft-capping or scaling); it cannot be trained here."
        )
