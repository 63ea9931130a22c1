"""From names in a recipe to live parts. The only place where a `use:` becomes an object."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from didact.algorithms.average import Average
from didact.algorithms.rules import Bound, Joined, Sum, Term
from didact.configs.schema import LossSpec, PhaseSpec
from didact.core.errors import RecipeError
from didact.core.phase import Phase, Trigger
from didact.core.protocols import Stateful
from didact.core.schedule import Schedule, Varying
from didact.plugins.registry import Registry
from didact.plugins.spec import CALLED, Stage, Use, Weight

REPORTED = frozenset({"loss", "rows", "tokens", "idle_rows", "entropy", "kl_old", "lr"})
"""Names under which every update reports; no term may be called so."""


@dataclass
class Builder:
    """Makes parts, and remembers those whose state a checkpoint must hold, by their path."""

    registry: Registry
    stateful: dict[str, Stateful] = field(default_factory=dict)

    def part(self, spec: Use | Stage, path: str, /, **given: Any) -> Any:
        """Make a part: construct a class, bind a function's settings, nested parts first.

        Args:
            spec: the checked `use:` of a recipe.
            path: where it stands in the recipe; names its state.
            given: parameters that the framework provides.
        """
        entry = self.registry.get(spec.kind, spec.use)
        params = self._settings(spec, path, given)
        accepted = inspect.signature(entry.factory).parameters
        params |= {name: value for name, value in given.items() if name in accepted}
        bound = spec.kind in CALLED and not inspect.isclass(entry.factory)
        if any(isinstance(value, Schedule) for value in params.values()):
            if hasattr(entry.factory, "load_state_dict"):
                raise RecipeError(
                    f"{path}: {spec.kind} '{spec.use}' keeps a state; its settings cannot follow a "
                    f"schedule."
                )
            make = partial(partial, entry.factory) if bound else entry.factory
            return Varying(make, params)
        made = partial(entry.factory, **params) if bound else entry.factory(**params)
        if isinstance(made, Stateful):
            self.stateful[path] = made
        elif spec.kind in ("sampler", "buffer"):
            raise RecipeError(
                f"{path}: {spec.kind} '{spec.use}' lacks 'state_dict' or 'load_state_dict': a run "
                f"that is resumed would go on from another state than it was in."
            )
        return made

    def _settings(self, spec: Use | Stage, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a part by name, the parts among them made."""
        names = type(spec.params).model_fields
        return {n: self._value(getattr(spec.params, n), f"{path}.{n}", given) for n in names}

    def _value(self, value: Any, path: str, given: Mapping[str, Any]) -> Any:
        """A setting, its parts made; a stage inside a stage is given what the outer one is."""
        if isinstance(value, Use | Stage):
            return self.part(value, path, **(given if isinstance(value, Stage) else {}))
        if isinstance(value, Mapping):
            return {key: self._value(item, f"{path}.{key}", given) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(item, f"{path}.{at}", given) for at, item in enumerate(value)]
        return value

    def bound(self, spec: LossSpec | Weight, path: str) -> Bound:
        """A loss or weight with its settings, schedules left open."""
        factory = self.registry.get(spec.kind, spec.use).factory
        if inspect.isclass(factory):
            return Bound(self.part(spec, path), {}, spec.bind)
        return Bound(factory, self._settings(spec, path, {}), spec.bind)

    def term(self, spec: LossSpec, average: Average, path: str) -> Term:
        """One term of a phase's rule."""
        times = [self.bound(w, f"{path}.times.{at}") for at, w in enumerate(spec.times)]
        for weight, bound in zip(spec.times, times, strict=True):
            if getattr(bound.function, "whole_mini_batch", False):
                raise RecipeError(
                    f"{path}: weight '{weight.use}' looks at the whole mini-batch; put it under "
                    f"'select', not 'times'."
                )
        select = [self.bound(w, f"{path}.select.{at}") for at, w in enumerate(spec.select)]
        if spec.recount and not select:
            raise RecipeError(
                f"{path}: 'recount' leaves out what 'select' gives 0, but 'select' is empty; what "
                f"'times' gives 0 stays in the denominator."
            )
        return Term(
            label=spec.label or spec.use,
            loss=self.bound(spec, path),
            weight=spec.weight,
            where=spec.where,
            tokens=spec.tokens,
            times=times,
            select=select,
            average=spec.average or average,
            batch_average=spec.batch_average,
            recount=spec.recount,
        )

    def phase(self, name: str, spec: PhaseSpec) -> Phase:
        """One phase with its pool and rule."""
        path = f"phases.{name}"
        terms, rules = [], []
        for at, given in enumerate(spec.rule):
            if isinstance(given, LossSpec):
                terms.append(self.term(given, spec.average, f"{path}.rule.{at}"))
            else:
                rules.append(self.part(given, f"{path}.rule.{at}", average=spec.average))
        labels = [term.label for term in terms]
        for at, label in enumerate(labels):
            if label in labels[:at] or label in REPORTED:
                raise RecipeError(
                    f"{path}.rule: two values would be reported as '{label}'; give one term a "
                    f"'label' of its own."
                )
        return Phase(
            name=name,
            take=spec.take,
            pool=self.part(spec.pool, f"{path}.pool"),
            when=Trigger(spec.when.at_least, spec.when.every, spec.when.first, spec.when.last),
            rule=Joined([*([Sum(terms)] if terms else []), *rules]) if rules else Sum(terms),
            batch_size=spec.batch_size,
            draw=spec.draw,
            epochs=spec.epochs,
            shuffle=spec.shuffle,
            model=spec.model,
            optimizer=spec.optimizer,
            max_age=spec.max_age,
        )
