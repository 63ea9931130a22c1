"""Lift a plain function of one trajectory into a reward provider."""

from __future__ import annotations

import functools
import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from typing import Concatenate, Generic, ParamSpec

from didact.core.protocols import Failed
from didact.core.types import Trajectory

P = ParamSpec("P")
Scored = Sequence[float | Failed]


class Each(Generic[P]):
    """A reward provider that asks a function about one trajectory at a time.

    It carries the function's name, docstring and settings, and can be pickled where the function
    can. What the function raises becomes `Failed` for that trajectory alone; it may return one too.
    """

    __signature__: inspect.Signature

    def __init__(self, function: Callable[Concatenate[Trajectory, P], float | Failed]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.__signature__ = _lifted(inspect.signature(function))

    def __call__(
        self, trajectories: Sequence[Trajectory], *args: P.args, **settings: P.kwargs
    ) -> Scored:
        return [self._one(trajectory, *args, **settings) for trajectory in trajectories]

    def _one(self, trajectory: Trajectory, *args: P.args, **settings: P.kwargs) -> float | Failed:
        try:
            given = self.function(trajectory, *args, **settings)
            value = given if isinstance(given, Failed) else float(given)
        except Exception as error:
            return Failed(reason(error))
        if isinstance(value, Failed) or math.isfinite(value):
            return value
        return Failed(f"{self!r} returned {value}")

    def __repr__(self) -> str:
        return f"each({self.function.__qualname__})"

    def __reduce__(self) -> tuple[type[Each[P]], tuple[Callable[..., float | Failed]]]:
        return type(self), (self.function,)


def each(function: Callable[Concatenate[Trajectory, P], float | Failed]) -> Each[P]:
    """The reward provider of a function of one trajectory.

    `each(f)(trajectories, **settings)` is `[f(t, **settings) for t in trajectories]`, with an
    exception, or a number that is not finite, as `Failed`.
    """
    return Each(function)


def reason(error: BaseException) -> str:
    """What went wrong and where: `ValueError: text, mine.py:12 > library.py:34`, called first."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without the call from here
    where = " > ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {error}" + (f", {where}" if where else "")


def _lifted(signature: inspect.Signature) -> inspect.Signature:
    """The same settings, behind many trajectories instead of one."""
    first, *settings = signature.parameters.values()
    many = inspect.Parameter("trajectories", first.POSITIONAL_ONLY, annotation=Sequence[Trajectory])
    return signature.replace(parameters=[many, *settings], return_annotation=Scored)
