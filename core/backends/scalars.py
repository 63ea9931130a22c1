"""The learned scalars of a learner's rules, each a float32 parameter, stepped along with the model.

They are no parameters of the model, so no engine shards, casts, syncs or exports them. Every rank
holds all of them and sums their gradients over ranks itself, alike at every ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from didact.core.backends.optim import NamedAdamW, OptimizerSpec
from didact.core.batch import Batch
from didact.core.errors import RunError
from didact.core.learned import Learned, learned_of
from didact.core.protocols import BoundRule, State, UpdateRule, World


class Scalars:
    """Live scalars by name, each with its moments.

    Args:
        specs: the optimizers of the learner.
        world: the processes of the run.
        device: where the model is.
        scaled: what every rank's loss is multiplied by before its backward pass.
    """

    def __init__(
        self,
        specs: Mapping[str, OptimizerSpec],
        world: World,
        device: torch.device,
        scaled: float = 1.0,
    ) -> None:
        self.specs, self.world, self.device, self.scaled = specs, world, device, scaled
        self.held: dict[str, NamedAdamW] = {}
        self.limits: Mapping[str, Learned] = {}

    def over(self, rule: UpdateRule, batch: Batch, step: int) -> BoundRule:
        """The rule over a mini-batch, handed its scalars; no gradient of them is left."""
        inner, self.limits = rule.over(batch, step), learned_of(rule)
        for name, kept in self.limits.items():
            if name not in self.held:
                self._hold(name, torch.tensor(kept.start))
            self._value(name).grad = None
        live = {name: self._value(name) for name in self.limits}
        return lambda part, columns: inner(part, {**columns, **live})

    def _hold(self, name: str, value: Tensor) -> None:
        param = value.to(self.device, torch.float32, copy=True).requires_grad_()
        self.held[name] = NamedAdamW([param], self.specs)

    def _value(self, name: str) -> Tensor:
        value: Tensor = self.held[name].param_groups[0]["params"][0]
        return value

    def gather(self) -> None:
        """Sum the gradients of this mini-batch over all ranks.

        Raises:
            RunError: one is not finite. Nothing has been stepped.
        """
        if not self.limits:
            return
        grads = [self._value(name).grad for name in self.limits]
        own = [0.0 if grad is None else float(grad) / self.scaled for grad in grads]
        everyone = self.world.map(lambda items: [own for _ in items], range(self.world.size))
        for name, parts in zip(self.limits, zip(*everyone, strict=True), strict=True):
            total = sum(parts)
            if not isfinite(total):
                raise RunError(f"the gradient of '{name}' is {total}, nothing was updated.")
            self._value(name).grad = torch.full_like(self._value(name), total)

    def step(self, optimizer: str, report: Mapping[str, float]) -> dict[str, float]:
        """Do what an optimizer has just done to the model, and report the values.

        Args:
            report: of that step: learning rate, and gradient norm, by which clipping goes.
        """
        for name, kept in self.limits.items():
            adam, value = self.held[name], self._value(name)
            adam.norm = lambda: report["grad_norm"]
            adam.chosen, adam.lr = optimizer, report["lr"]
            adam.step()
            adam.chosen, value.grad = None, None
            with torch.no_grad():
                value.clamp_(kept.at_least, kept.at_most)
        return {f"learned/{name}": float(self._value(name).detach()) for name in self.limits}

    def state_dict(self) -> State:
        """Values and moments by name."""
        return {
            name: {
                "value": _copied(self._value(name)),
                "optimizer": adam.dump([self._value(name)], _copied),
            }
            for name, adam in self.held.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.held.clear()
        for name, kept in state.items():
            self._hold(name, kept["value"])
            self.held[name].restore([self._value(name)], kept["optimizer"])


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
