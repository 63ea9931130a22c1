"""The framework's own parts, registered exactly as a third party would."""

from didact.algorithms import (
    advantages,
    negative_aware,
    policy_gradient,
    regularizers,
    shaped,
    supervised,
)
from didact.core import annotate, observers, score, stages
from didact.core.backends import hf_generator, torch_learner
from didact.feedback import (
    buffers,
    critics,
    demonstrations,
    environments,
    policy,
    refine,
    replay,
    samplers,
)
from didact.feedback.tasks import arithmetic, countdown, letters
from didact.plugins.hookspecs import hookimpl
from didact.plugins.registry import Register
from didact.rewards import procedural
from didact.rewards.each import each


@hookimpl
def register_stages(register: Register) -> None:
    register("rollout", stages.Rollout)
    register("score", score.Score)
    register("critique", stages.Critique)
    register("keep", stages.Keep)
    register("swap", stages.Swap)
    register("advantage", annotate.Annotate)
    register("store", stages.Store)
    register("read", stages.Read)
    register("fill", stages.Fill)


@hookimpl
def register_sources(register: Register) -> None:
    register("policy", policy.PolicySource)
    register("refinement", refine.RefinementSource)
    register("demonstrations", demonstrations.DemonstrationSource)
    register("prefix", demonstrations.PrefixSource)
    register("replay", replay.ReplaySource)


@hookimpl
def register_buffers(register: Register) -> None:
    register("queue", buffers.Queue)
    register("stack", buffers.Stack)
    register("ring", buffers.Ring)
    register("by_prompt", buffers.ByPrompt)


@hookimpl
def register_tasks(register: Register) -> None:
    register("letters", letters.Letters)
    register("arithmetic", arithmetic.Arithmetic)
    register("countdown", countdown.Countdown)


@hookimpl
def register_samplers(register: Register) -> None:
    register("ordered", samplers.Ordered)
    register("shuffled", samplers.Shuffled)


@hookimpl
def register_rewards(register: Register) -> None:
    register("letters_answer", each(procedural.letters_answer))
    register("arithmetic_answer", each(procedural.arithmetic_answer))


@hookimpl
def register_critics(register: Register) -> None:
    register("indicative", critics.Indicative)
    register("indicative_with_answer", critics.IndicativeWithAnswer)
    register("reference_solution", critics.ReferenceSolution)


@hookimpl
def register_environments(register: Register) -> None:
    register("second_try", environments.SecondTry)


@hookimpl
def register_advantages(register: Register) -> None:
    register("group_norm", advantages.group_norm)
    register("leave_one_out", advantages.leave_one_out)


@hookimpl
def register_losses(register: Register) -> None:
    register("ppo_clip", policy_gradient.ppo_clip)
    register("reinforce", policy_gradient.reinforce)
    register("sft", supervised.negative_log_likelihood)
    register("entropy_bonus", regularizers.negative_entropy)
    register("shaped_likelihood", shaped.shaped_likelihood)
    register("nft", negative_aware.nft)
    register("kl_k3", regularizers.kl_k3)


@hookimpl
def register_observers(register: Register) -> None:
    register("jsonl", observers.JsonLines)
    register("tensorboard", observers.TensorBoard)
    register("trajectories", observers.Trajectories)


@hookimpl
def register_learners(register: Register) -> None:
    register("torch", torch_learner.TorchLearner)


@hookimpl
def register_generators(register: Register) -> None:
    register("hf", hf_generator.HFGenerator)
