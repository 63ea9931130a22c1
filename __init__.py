"""didact: compose, extend and compare methods by which language models learn from feedback.

What is exported here and in `didact.testing` is the public interface for plug-in authors. Names are
imported when first used, so that `import didact` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from didact.algorithms.groups import group_mean as group_mean
    from didact.algorithms.groups import group_size as group_size
    from didact.algorithms.groups import group_std as group_std
    from didact.algorithms.groups import group_sum as group_sum
    from didact.algorithms.rules import vanishes_with as vanishes_with
    from didact.algorithms.tensors import masked_mean as masked_mean
    from didact.algorithms.tensors import masked_sum as masked_sum
    from didact.algorithms.tensors import per_token as per_token
    from didact.algorithms.tensors import whole_mini_batch as whole_mini_batch
    from didact.core.batch import Batch as Batch
    from didact.core.bind import adds as adds
    from didact.core.codec import decode as decode
    from didact.core.codec import encode as encode
    from didact.core.errors import DataError as DataError
    from didact.core.errors import DidactError as DidactError
    from didact.core.errors import PluginError as PluginError
    from didact.core.errors import RecipeError as RecipeError
    from didact.core.errors import RewardError as RewardError
    from didact.core.errors import RunError as RunError
    from didact.core.learned import Learned as Learned
    from didact.core.protocols import CritiqueProvider as CritiqueProvider
    from didact.core.protocols import Environment as Environment
    from didact.core.protocols import Estimate as Estimate
    from didact.core.protocols import Failed as Failed
    from didact.core.protocols import Names as Names
    from didact.core.protocols import ReplayBuffer as ReplayBuffer
    from didact.core.protocols import RewardProvider as RewardProvider
    from didact.core.protocols import RolloutSource as RolloutSource
    from didact.core.protocols import Run as Run
    from didact.core.protocols import Sampler as Sampler
    from didact.core.protocols import Stage as Stage
    from didact.core.protocols import State as State
    from didact.core.protocols import Stateful as Stateful
    from didact.core.protocols import TaskSource as TaskSource
    from didact.core.seeds import seed_of as seed_of
    from didact.core.types import Feedback as Feedback
    from didact.core.types import Group as Group
    from didact.core.types import Problem as Problem
    from didact.core.types import Prompt as Prompt
    from didact.core.types import Request as Request
    from didact.core.types import Sample as Sample
    from didact.core.types import Sampling as Sampling
    from didact.core.types import Trajectory as Trajectory
    from didact.core.where import Where as Where
    from didact.feedback.critics import each_critic as each_critic
    from didact.feedback.policy import ask as ask
    from didact.feedback.policy import sampling_of as sampling_of
    from didact.feedback.policy import seeds_of as seeds_of
    from didact.plugins.hookspecs import hookimpl as hookimpl
    from didact.plugins.registry import Register as Register
    from didact.rewards.each import each as each

PUBLIC = {
    "algorithms.groups": ("group_mean", "group_size", "group_std", "group_sum"),
    "algorithms.rules": ("vanishes_with",),
    "algorithms.tensors": ("masked_mean", "masked_sum", "per_token", "whole_mini_batch"),
    "core.batch": ("Batch",),
    "core.bind": ("adds",),
    "core.codec": ("decode", "encode"),
    "core.errors": (
        "DataError",
        "DidactError",
        "PluginError",
        "RecipeError",
        "RewardError",
        "RunError",
    ),
    "core.learned": ("Learned",),
    "core.protocols": (
        "CritiqueProvider",
        "Environment",
        "Estimate",
        "Failed",
        "Names",
        "ReplayBuffer",
        "RewardProvider",
        "RolloutSource",
        "Run",
        "Sampler",
        "Stage",
        "State",
        "Stateful",
        "TaskSource",
    ),
    "core.seeds": ("seed_of",),
    "core.types": (
        "Feedback",
        "Group",
        "Problem",
        "Prompt",
        "Request",
        "Sample",
        "Sampling",
        "Trajectory",
    ),
    "core.where": ("Where",),
    "feedback.critics": ("each_critic",),
    "feedback.policy": ("ask", "sampling_of", "seeds_of"),
    "plugins.hookspecs": ("hookimpl",),
    "plugins.registry": ("Register",),
    "rewards.each": ("each",),
}
"""Every public name, by the module it lives in."""
_HOMES = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"didact.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'didact' has no public name '{name}'")
