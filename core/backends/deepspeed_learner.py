"""The learner on DeepSpeed: ZeRO 0 to 3 over any number of ranks, on GPUs or on CPU over gloo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from didact.core.backends import engines, learning, lora, reports, speed
from didact.core.backends.budget import REMEDY, Budget, TooLarge, out_of_memory
from didact.core.backends.deepspeed_engine import BUCKET, blank, merged, ours, started
from didact.core.backends.forward import Readouts, Row, unpacked
from didact.core.backends.optim import NamedAdamW, OptimizerSpec
from didact.core.backends.scalars import Scalars
from didact.core.backends.shelf import Shelf
from didact.core.batch import Batch
from didact.core.errors import RecipeError, RunError, Stranded, unknown
from didact.core.protocols import Names, State, UpdateRule, World
from didact.core.ranges import Count
from didact.core.types import Trajectory
from didact.core.world import Alone


class DeepSpeedLearner:
    """One DeepSpeed engine with several named optimizers.

    Every rank is given the same batches, works on its share and steps together with the others. All
    methods but `scale_lr` must be called on every rank. DeepSpeed averages gradients over ranks, so
    each loss is multiplied by their number: the framework owns the denominators.

    Args:
        model: from `load_model`, whole, on every rank.
        tokenizer: saved beside the model.
        optimizers: by the name a phase calls them; none for a model that is only read out, which
            then is held whole on every rank.
        temperature: of the sampler; logits are divided by it.
        world: the processes of the run.
        stage: of ZeRO: 1 shards moments, 2 also gradients, 3 also parameters.
        max_tokens: most tokens (prompt and response) of a micro-batch; a longer row goes alone.
            Halved for the rest of the run whenever memory does not hold one.
        packing: feed the rows of a micro-batch as one sequence, without padding.
        entropy: report the mean entropy over loss tokens even if no loss reads it.
        gradient_checkpointing: compute activations again in the backward pass; saves memory. In a
            recipe "auto" means: if, by the plan, memory would not do without.
        logits: most logits made at once (elements, 4 bytes each).
        config: further DeepSpeed settings (offloading, say); merged over ours.
        liger: use Liger's kernels for norms, rotary embedding and gated layers (needs liger-kernel
            and a GPU; not run on one yet).
        compile: compile each layer with torch.compile; the first steps take a minute or more.
        offload: between updates keep moments and master copies in the host's memory, free that of
            gradients, and leave the GPU's to the generator; an update then begins and ends with
            copying them.
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
        stage: Literal[0, 1, 2, 3] = 2,
        max_tokens: Count = 16384,
        packing: bool = True,
        entropy: bool = True,
        gradient_checkpointing: bool | Literal["auto"] = False,
        logits: Count = 2**27,
        config: Mapping[str, Any] | None = None,
        liger: bool = False,
        compile: bool = False,
        offload: bool = False,
        device: str = "auto",
    ) -> None:
        self.model, self.tokenizer = model.to(engines.device(device)), tokenizer
        self.world: World = world or Alone()
        if compile and stage == 3:
            raise RecipeError("learner.compile: not with ZeRO stage 3, which gathers in layers.")
        self.stage, self.factor = stage, 1.0
        self.budget, self.reduced = Budget(max_tokens), False
        self.offload, self.shelf = offload, Shelf(engines.device(device))
        self.watch = frozenset({"entropy"}) if entropy else frozenset()
        self.reader = Readouts(model, temperature=temperature, packing=packing, chunk=logits)
        engines.checkpointed(model, gradient_checkpointing)
        speed.hasten(model, liger=liger, compiled=compile)
        self.params = lora.learning(model, bool(optimizers))
        self.scalars = Scalars(optimizers, self.world, self.reader.device, self.world.size)
        self.optimizer: NamedAdamW | None = None
        self.engine: Any = None
        if optimizers:
            self.optimizer = NamedAdamW(self.params, optimizers)
            size = sum(p.numel() for p in model.parameters())
            settings = ours(stage, next(model.parameters()).dtype, self.world.size, size)
            self.engine = started(self.reader, self.optimizer, merged(settings, config or {}))
            self.optimizer.norm = None if stage == 0 else self._norm
            for param in self.params:
                hooked: Any = param
                hooked.register_post_accumulate_grad_hook(self._mark_reduced)

    def _mark_reduced(self, _: Tensor) -> None:
        self.reduced = True

    def _norm(self) -> float:
        return float(self.engine.optimizer._global_grad_norm)

    def _forward(self, rows: Sequence[Row], live: Names, watched: Names) -> Mapping[str, Tensor]:
        run = self.reader if self.engine is None else self.engine
        with self._no_way_back(self.engine is not None and self.stage == 3):
            return unpacked(run(rows, live, watched), live, watched)

    @contextmanager
    def _no_way_back(self, sharded: bool) -> Iterator[None]:
        """Out of memory between collectives, a rank can neither go on nor tell the others.

        That is anywhere if the weights are sharded, and else once a backward pass has made the
        first gradient of a parameter.
        """
        self.reduced = sharded
        try:
            yield
        except RuntimeError as error:
            if not (self.reduced and out_of_memory(error)):
                raise
            raise Stranded(
                f"out of memory between the collectives of ZeRO stage {self.stage}, where no rank "
                f"can try again; set learner.max_tokens below {self.budget.tokens}, or {REMEDY}."
            ) from error

    def rest(self) -> None:
        """Let all but the weights leave the device until the next update, with `offload`."""
        if self.offload:
            self.shelf.rest(self._resting(), blank(self.engine, self.stage))

    def scale_lr(self, factor: float) -> None:
        """Multiply every learning rate by this, on top of its schedule."""
        self.factor = factor

    def freeze(self, rows: Sequence[Trajectory], columns: Names) -> Sequence[Trajectory]:
        """Attach readouts of the model as it is now, without gradient."""
        return learning.frozen(
            rows, columns, self._forward, self.reader, self.budget.tokens, self.world
        )

    def _resting(self) -> Iterator[Tensor]:
        """What only a step reads; with sharded parameters the buffer of their gradients, too."""
        if self.engine is not None and self.stage > 0:
            yield from self._partitions
        if self.engine is not None and self.stage == 3:
            yield self.engine.optimizer.grad_partitions_flat_buffer
        if self.optimizer is not None:
            yield from self.optimizer.held()

    def update(
        self, batch: Batch, rule: UpdateRule, optimizer: str, step: int
    ) -> Mapping[str, float]:
        """One optimizer step; refuses, and changes nothing, if loss or gradient is not finite."""
        self.shelf.wake()
        adam = self._optimizer(optimizer)
        idle = rule.idle(batch)
        active = [at for at, is_idle in enumerate(idle) if not is_idle]
        wanted = learning.Wanted.by(rule, batch.take(active), self.reader.offers, self.watch)
        padded = not self.reader.packing

        def attempt(max_tokens: int) -> Mapping[str, float]:
            bound = self.scalars.over(rule, batch, step)
            micro = learning.micro_batches(batch, active, max_tokens, self.world, padded)
            tally = learning.backward(micro, self._forward, bound, wanted, self._backward)
            try:
                metrics = reports.metrics_of(tally, batch, sum(idle), self.world)
                self.scalars.gather()
            except (RunError, TooLarge):
                self.engine.step()  # no optimizer is chosen: drops the gradients, changes nothing
                raise
            adam.choose(optimizer, self.factor)
            self.engine.step()
            report = adam.outcome(optimizer)
            if report is None:
                raise RunError(reports.refusal(batch))
            return metrics | report | self.scalars.step(optimizer, report)

        return self.budget.spend(attempt)

    def _backward(self, loss: Tensor, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        with self._no_way_back(self.stage == 3):
            self.engine.backward(loss * self.world.size, scale_wrt_gas=False)

    def _optimizer(self, name: str) -> NamedAdamW:
        if self.optimizer is None or name not in self.optimizer.specs:
            raise RecipeError(unknown("optimizer", name, getattr(self.optimizer, "specs", ())))
        return self.optimizer

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter by name, adapters merged; gathered in buckets; tied ones once."""
        return lora.merged(self._whole(), lora.scales(self.model))

    def _whole(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter as the model names it, gathered in buckets that never overlap."""
        for bucket in _buckets(self.model.named_parameters()):
            whole = self._gathered([param for _, param in bucket])
            for (name, _), value in zip(bucket, whole, strict=True):
                yield name, value

    def _gathered(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Whole tensors; they stay valid after the parameters are partitioned again."""
        if self.engine is None or self.stage < 3:
            return [param.detach() for param in params]
        import deepspeed

        with deepspeed.zero.GatheredParameters(params, modifier_rank=None):
            return [param.detach() for param in params]

    def save(self, folder: Path) -> None:
        """Model and tokenizer as transformers writes them; gathered by all, written by rank 0."""
        first = self.world.rank == 0
        whole = {}
        for name, value in self.weights():  # every rank takes part in the gathers
            if first:
                whole[name] = value.cpu()
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            self.model.save_pretrained(folder, state_dict=whole)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
        self.world.barrier()

    @property
    def _partitions(self) -> list[Tensor]:
        """The float32 tensors that this rank optimizes."""
        if self.optimizer is None:
            return self.params
        if self.stage == 3:  # steps each of them apart, and leaves the optimizer's groups empty
            return list(self.engine.optimizer.fp32_partitioned_groups_flat)
        return [part for group in self.optimizer.param_groups for part in group["params"]]

    def state_dict(self) -> State:
        """This rank's share of parameters and moments, step counts and random states."""
        parts, copied = self._partitions, self.shelf.copied
        return {
            "stage": self.stage,
            "world": self.world.size,
            "partitions": [copied(part) for part in parts],
            "optimizer": self.optimizer.dump(parts, copied) if self.optimizer else {},
            "scalars": self.scalars.state_dict(),
            "random": engines.random_state(),
            "max_tokens": self.budget.tokens,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Needs the same ZeRO stage and number of ranks that wrote it."""
        wrote, here = (state["stage"], state["world"]), (self.stage, self.world.size)
        if wrote != here:
            raise RunError(
                f"the state is of ZeRO stage {wrote[0]} on {wrote[1]} ranks; this run has stage "
                f"{here[0]} on {here[1]}. Load the saved model instead, or keep both."
            )
        self.shelf.wake()
        parts = self._partitions
        with torch.no_grad():
            for part, value in zip(parts, state["partitions"], strict=True):
                part.copy_(value)
            self._publish()
        if self.optimizer is not None:
            self.optimizer.restore(parts, state["optimizer"])
        self.scalars.load_state_dict(state["scalars"])
        engines.restore_random(state["random"])
        self.budget.lower(state["max_tokens"])

    def _publish(self) -> None:
        """Make the model's own parameters from the float32 partitions, as a step does."""
        if self.engine is None or self.stage == 0:
            return
        inner = self.engine.optimizer
        if self.stage < 3:
            inner.update_lp_params()
            return
        for group in range(len(inner.fp16_groups)):
            inner._reassign_or_swap_out_partitioned_parameters(group)
        if inner.persistent_parameters:
            inner.persistent_parameters[0].all_gather(inner.persistent_parameters)


def _buckets(named: Iterator[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    bucket: list[tuple[str, Tensor]] = []
    size = 0
    for name, param in named:
        bucket.append((name, param))
        size += int(getattr(param, "ds_numel", param.numel()))
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
