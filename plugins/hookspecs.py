"""The hooks a plug-in may implement: this file is the list of extension points.

Registration hooks are called once and take `register(name, factory)`. Observers are registered
like any part; their methods are listed in `didact.core.observe`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from didact.plugins.registry import Register

hookspec = pluggy.HookspecMarker("didact")
hookimpl = pluggy.HookimplMarker("didact")


@hookspec
def register_sources(register: Register) -> None:
    """Add rollout sources: for each group, more trajectories."""


@hookspec
def register_environments(register: Register) -> None:
    """Add environments: what answers a response in a multi-turn episode."""


@hookspec
def register_rewards(register: Register) -> None:
    """Add reward providers: trajectories in, floats (or `Failed`) out."""


@hookspec
def register_critics(register: Register) -> None:
    """Add critique providers: trajectories in, feedback in words out."""


@hookspec
def register_advantages(register: Register) -> None:
    """Add advantage estimators: pure functions of a step's rewards and groups."""


@hookspec
def register_losses(register: Register) -> None:
    """Add losses: pure functions whose positional parameters are batch columns."""


@hookspec
def register_weights(register: Register) -> None:
    """Add per-token multipliers of a loss, bound to columns like a loss."""


@hookspec
def register_rules(register: Register) -> None:
    """Add whole update rules, for objectives that are no sum of per-token losses (pairs, say)."""


@hookspec
def register_buffers(register: Register) -> None:
    """Add buffers: where trajectories wait for a phase, or to be replayed."""


@hookspec
def register_samplers(register: Register) -> None:
    """Add samplers: which problems a step works on; curricula."""


@hookspec
def register_stages(register: Register) -> None:
    """Add stages: the verbs of `experience:`."""


@hookspec
def register_tasks(register: Register) -> None:
    """Add task sources: indexable collections of problems."""


@hookspec
def register_generators(register: Register) -> None:
    """Add generator backends: inference engines."""


@hookspec
def register_learners(register: Register) -> None:
    """Add learner backends: training engines."""


@hookspec
def register_observers(register: Register) -> None:
    """Add observers: loggers and trackers; they see everything and change nothing."""
