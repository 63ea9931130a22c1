"""Named AdamW optimizers over one set of parameters, each with its own moments and schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite, nan
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.optim.adamw import adamw

from didact.core.backends.budget import out_of_memory
from didact.core.errors import Stranded
from didact.core.ranges import NonNegative, Positive, Whole
from didact.core.schedule import Scalar, value_at

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(BaseModel):
    """One AdamW (arXiv:1711.05101).

    Everything that depends on time counts *this optimizer's own* steps, so that a phase that fires
    rarely warms up over its own updates. A skipped step does not count.

    Attributes:
        lr: learning rate; may be a schedule over the optimizer's own steps.
        betas: decay of the first and second moment.
        weight_decay: decoupled, times the learning rate.
        eps: added to the root of the second moment.
        clip: largest norm of the whole gradient; None: no clipping. inf only measures.
        warmup: steps over which the learning rate rises linearly, on top of `lr`.
        skip_above: leave the parameters alone when the gradient norm exceeds this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
    lr: Annotated[Scalar, Field(ge=0)] = 1e-6
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NonNegative = 0.0
    eps: Positive = 1e-8
    clip: Positive | None = 1.0
    warmup: Whole = 0
    skip_above: Positive | None = None

    def lr_at(self, step: int) -> float:
        """The learning rate of its own step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rise * value_at(self.lr, step)

    def scale_of(self, norm: float) -> float:
        """What a gradient of this norm is multiplied by."""
        return 1.0 if self.clip is None else min(1.0, self.clip / (norm + 1e-6))

    def skips(self, norm: float) -> bool:
        return self.skip_above is not None and norm > self.skip_above


Moments = dict[Tensor, tuple[Tensor, Tensor, Tensor]]
"""For each parameter: first moment, second moment, and steps as a float32 scalar."""


class NamedAdamW(torch.optim.Optimizer):
    """The optimizers of one learner. `choose` one, then `step`.

    It is a torch optimizer because DeepSpeed, which replaces the parameters by flat float32
    partitions and calls `step` on them, asks for one. As moments are kept here and by name, nothing
    need be swapped there, at any ZeRO stage.

    Args:
        params: what is optimized; float32.
        specs: the optimizers by name.
        norm: gives the global gradient norm at the moment of a step; None: measured here.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        specs: Mapping[str, OptimizerSpec],
        norm: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(list(params), {"lr": 0.0})
        self.specs = dict(specs)
        self.norm = norm
        self.moments: dict[str, Moments] = {name: {} for name in specs}
        self.steps: dict[str, int] = dict.fromkeys(specs, 0)
        self.chosen: str | None = None
        self.lr = 0.0
        self.measured: float | None = None

    def choose(self, name: str, factor: float) -> None:
        """The optimizer of the next step; its learning rate is multiplied by `factor`."""
        self.chosen, self.measured = name, None
        self.lr = factor * self.specs[name].lr_at(self.steps[name])

    def outcome(self, name: str) -> dict[str, float] | None:
        """Count the step that was taken and report it; None if the gradient was not finite."""
        norm, self.chosen = self.measured, None
        if norm is None or not isfinite(norm):
            return None
        skipped = self.specs[name].skips(norm)
        self.steps[name] += not skipped
        return {"grad_norm": norm, "lr": self.lr, "skipped": float(skipped)}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip and apply the gradients of all parameters.

        Does nothing if the norm is not finite, or one that the optimizer skips; `measured` says
        what it was. Does not count the step: with ZeRO-3 one update calls it several times.
        """
        if self.chosen is None:
            return
        spec = self.specs[self.chosen]
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in params]
        norm = self.norm() if self.norm else float(torch.nn.utils.get_total_norm(grads))
        self.measured = norm if norm >= 0 else nan  # DeepSpeed says -1 for a norm that is none
        if not params or not isfinite(self.measured) or spec.skips(norm):
            return
        scale = spec.scale_of(norm)
        if scale != 1.0:
            torch._foreach_mul_(grads, scale)
        held = self._all_held(self.chosen, params)
        adamw(
            params,
            grads,
            [first for first, _, _ in held],
            [second for _, second, _ in held],
            [],
            [count for _, _, count in held],
            fused=True,
            amsgrad=False,
            beta1=spec.betas[0],
            beta2=spec.betas[1],
            lr=self.lr,
            weight_decay=spec.weight_decay,
            eps=spec.eps,
            maximize=False,
        )

    def _all_held(self, name: str, params: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        try:
            return [self._held(name, param) for param in params]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            size = sum(2 * param.numel() * param.element_size() for param in params)
            raise Stranded(
                f"out of memory for the moments of optimizer '{name}' ({size / 2**30:.2f} GiB in "
                f"this process); share them out (learner 'deepspeed' in more "
                f"processes), train adapters (lora), or leave the learner more room."
            ) from error

    def _held(self, name: str, param: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if param not in self.moments[name]:
            zeros = torch.zeros_like(param.detach())
            count = torch.zeros((), dtype=torch.float32, device=param.device)
            self.moments[name][param] = (zeros, zeros.clone(), count)
        return self.moments[name][param]

    def held(self) -> Iterator[Tensor]:
        """The moments of all optimizers."""
        for moments in self.moments.values():
            for first, second, _ in moments.values():
                yield from (first, second)

    def dump(self, params: Iterable[Tensor], copied: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Moments in the order of `params` and step counts, as tensors and plain data.

        Args:
            copied: brings a tensor's values to the host.
        """
        order = list(params)
        return {
            "steps": dict(self.steps),
            "moments": {
                name: [[copied(part) for part in held[p]] for p in order if p in held]
                for name, held in self.moments.items()
            },
        }

    def restore(self, params: Iterable[Tensor], state: Mapping[str, Any]) -> None:
        """What `dump` gave. Optimizers the state does not know start from nothing."""
        order = list(params)
        for name in self.specs:
            parts = state["moments"].get(name, [])
            self.steps[name] = int(state["steps"].get(name, 0))
            self.moments[name] = {
                p: (
                    part[0].to(p.device, copy=True),
                    part[1].to(p.device, copy=True),
                    part[2].to(p.device, copy=True),
                )
                for p, part in zip(order, parts, strict=False)
            }
