"""The framework's own parts, registered exactly as a third party would."""

from didact.core import score, stages
from didact.plugins.hookspecs import hookimpl
from didact.plugins.registry import Register


@hookimpl
def register_stages(register: Register) -> None:
    register("rollout", stages.Rollout)
    register("score", score.Score)
    register("critique", stages.Critique)
    register("keep", stages.Keep)
    register("swap", stages.Swap)
    register("store", stages.Store)
    register("read", stages.Read)
    register("fill", stages.Fill)
