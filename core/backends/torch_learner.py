"""The learner for one process: plain torch, several named optimizers over the same parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from didact.core.backends import engines, learning, lora, reports, speed
from didact.core.backends.budget import Budget
from didact.core.backends.forward import Readouts
from didact.core.backends.optim import NamedAdamW, OptimizerSpec
from didact.core.backends.scalars import Scalars
from didact.core.backends.shelf import Shelf
from didact.core.batch import Batch
from didact.core.errors import RecipeError, RunError, unknown
from didact.core.protocols import Names, State, UpdateRule, World
from didact.core.ranges import Count
from didact.core.types import Trajectory
from didact.core.world import Alone


class TorchLearner:
    """Trains one model in one process, or reads one out in any number of them.

    The parameters are optimized in float32; a bfloat16 model computes with a copy of them, and its
    gradients are added up over micro-batches in float32.

    Args:
        model: from `load_model`, on the device it shall stay on.
        tokenizer: saved beside the model.
        optimizers: by the name a phase calls them; none for a model that is only read out.
        temperature: of the sampler; logits are divided by it.
        world: the processes of the run. With more than one, only `freeze` may be used.
        max_tokens: most tokens (prompt and response) of a micro-batch; a longer row goes alone.
            Halved for the rest of the run whenever memory does not hold one.
        packing: feed the rows of a micro-batch as one sequence, without padding.
        entropy: report the mean entropy over loss tokens even if no loss reads it.
        gradient_checkpointing: compute activations again in the backward pass; saves memory. In a
            recipe "auto" means: if, by the plan, memory would not do without.
        logits: most logits made at once (elements, 4 bytes each).
        liger: use Liger's kernels for norms, rotary embedding and gated layers (needs liger-kernel
            and a GPU; not run on one yet).
        compile: compile each layer with torch.compile; the first steps take a minute or more.
        offload: between updates keep moments and master copies in the host's memory, and leave the
            GPU's to the generator; an update then begins and ends with copying them.
        device: "auto" is this process's GPU if there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        optimizers: Mapping[str, OptimizerSpec],
        temperature: float = 1.0,
        world: World | None = None,
        *,
        max_tokens: Count = 16384,
        packing: bool = True,
        entropy: bool = True,
        gradient_checkpointing: bool | Literal["auto"] = False,
        logits: Count = 2**27,
        liger: bool = False,
        compile: bool = False,
        offload: bool = False,
        device: str = "auto",
    ) -> None:
        self.model, self.tokenizer = model.to(engines.device(device)), tokenizer
        self.world: World = world or Alone()
        if optimizers and self.world.size > 1:
            raise RecipeError("learner 'torch' trains in one process; use 'deepspeed' for more.")
        self.budget = Budget(max_tokens)
        self.watch = frozenset({"entropy"}) if entropy else frozenset()
        self.reader = Readouts(model, temperature=temperature, packing=packing, chunk=logits)
        engines.checkpointed(model, gradient_checkpointing)
        speed.hasten(model, liger=liger, compiled=compile)
        self.params = lora.learning(model, bool(optimizers))
        self.named, self.adapted = list(model.named_parameters()), lora.scales(model)
        half = any(p.dtype != torch.float32 for p in self.params)
        self.masters: list[Tensor] = self.params
        if half:
            self.masters = [p.detach().float().clone() for p in self.params]
        self.with_gradient = [*self.params, *self.masters] if half else self.params
        self._clear()  # and after every update
        self.optimizer = NamedAdamW(self.masters, optimizers) if optimizers else None
        self.scalars = Scalars(optimizers, self.world, self.reader.device)
        self.factor = 1.0
        self.offload, self.shelf = offload, Shelf(self.reader.device)

    def rest(self) -> None:
        """Let moments and masters leave the device until the next update, with `offload`."""
        if self.offload:
            self.shelf.rest(self._resting())

    def scale_lr(self, factor: float) -> None:
        """Multiply every learning rate by this, on top of its schedule."""
        self.factor = factor

    def freeze(self, rows: Sequence[Trajectory], columns: Names) -> Sequence[Trajectory]:
        """Attach readouts of the model as it is now, without gradient."""
        return learning.frozen(
            rows, columns, self.reader.read, self.reader, self.budget.tokens, self.world
        )

    def _resting(self) -> Iterator[Tensor]:
        if self.masters is not self.params:
            yield from self.masters
        if self.optimizer is not None:
            yield from self.optimizer.held()

    def update(
        self, batch: Batch, rule: UpdateRule, optimizer: str, step: int
    ) -> Mapping[str, float]:
        """One optimizer step; refuses, and changes nothing, if loss or gradient is not finite."""
        self.shelf.wake()
        self._optimizer(optimizer)
        idle = rule.idle(batch)
        active = [at for at, is_idle in enumerate(idle) if not is_idle]
        wanted = learning.Wanted.by(rule, batch.take(active), self.reader.offers, self.watch)
        padded = not self.reader.packing

        def attempt(max_tokens: int) -> Mapping[str, float]:
            bound = self.scalars.over(rule, batch, step)
            micro = learning.micro_batches(batch, active, max_tokens, self.world, padded)
            parts = [part for part in micro if len(part)]
            try:
                tally = learning.backward(parts, self.reader.read, bound, wanted, self._backward)
                metrics = reports.metrics_of(tally, batch, sum(idle), self.world)
                self.scalars.gather()
                report = self._step(optimizer, batch)
                return metrics | report | self.scalars.step(optimizer, report)
            finally:
                self._clear()

        return self.budget.spend(attempt)

    def _optimizer(self, name: str) -> NamedAdamW:
        if self.optimizer is None or name not in self.optimizer.specs:
            raise RecipeError(unknown("optimizer", name, getattr(self.optimizer, "specs", ())))
        return self.optimizer

    def _backward(self, loss: Tensor, last: bool) -> None:
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        if self.masters is self.params:
            return
        for master, param in zip(self.masters, self.params, strict=True):
            if param.grad is not None:
                grad = param.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                param.grad = None

    def _step(self, name: str, batch: Batch) -> dict[str, float]:
        adam = self._optimizer(name)
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        adam.choose(name, self.factor)
        adam.step()
        report = adam.outcome(name)
        if report is None:
            raise RunError(reports.refusal(batch))
        self._publish()
        return report

    @torch.no_grad()
    def _publish(self) -> None:
        """Give the computing copy the optimized values."""
        if self.masters is not self.params:
            torch._foreach_copy_(self.params, self.masters)

    def _clear(self) -> None:
        for tensor in self.with_gradient:
            tensor.grad = None

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter by name, adapters merged; tied ones once."""
        return lora.merged(((name, param.detach()) for name, param in self.named), self.adapted)

    def save(self, folder: Path) -> None:
        """Model and tokenizer as transformers writes them; rank 0 writes."""
        if self.world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            whole = dict(lora.merged(self.model.state_dict().items(), self.adapted))
            self.model.save_pretrained(folder, state_dict=whole)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
        self.world.barrier()

    def state_dict(self) -> State:
        """Parameters, moments, step counts and random states: enough to continue bitwise."""
        copied = self.shelf.copied
        return {
            "masters": [copied(master) for master in self.masters],
            "optimizer": self.optimizer.dump(self.masters, copied) if self.optimizer else {},
            "scalars": self.scalars.state_dict(),
            "random": engines.random_state(),
            "max_tokens": self.budget.tokens,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; for a model of the same shape."""
        self.shelf.wake()
        if [tuple(m.shape) for m in self.masters] != [tuple(m.shape) for m in state["masters"]]:
            raise RunError("the state is of a model of another shape.")
        with torch.no_grad():
            for master, value in zip(self.masters, state["masters"], strict=True):
                master.copy_(value)
        self._publish()
        if self.optimizer is not None:
            self.optimizer.restore(self.masters, state["optimizer"])
        self.scalars.load_state_dict(state["scalars"])
        engines.restore_random(state["random"])
        self.budget.lower(state["max_tokens"])
