"""The framework's own parts, registered as a third party would; long because it lists them all."""

from collections.abc import Callable
from typing import Any

from didact.algorithms import (
    adaptive_clip,
    advantage_variants,
    advantages,
    alignment,
    allotment,
    consistency,
    credit,
    effective_rank,
    entropy_weighted,
    kl_reward,
    mixing,
    negative_aware,
    off_policy,
    pairs,
    policy_gradient,
    regularizers,
    selection,
    sequence_level,
    shaped,
    shaping,
    supervised,
    token_advantages,
    trust,
    value_learning,
    weights,
)
from didact.core import annotate, observers, rounds, score, stages
from didact.core.backends import (
    deepspeed_learner,
    hf_generator,
    server_generator,
    torch_learner,
    vllm_generator,
)
from didact.feedback import (
    buffers,
    critics,
    curriculum,
    demonstrations,
    drawn,
    environments,
    games,
    partial,
    policy,
    prefixes,
    refine,
    replay,
    samplers,
    steps,
)
from didact.feedback.judge import LlmCritic
from didact.feedback.tasks import arithmetic, compositions, countdown, files, gym, letters, mixture
from didact.plugins.hookspecs import hookimpl
from didact.plugins.registry import Register
from didact.rewards import format, length, match, math_verify, procedural, repetition
from didact.rewards.each import each
from didact.rewards.judge import Judge


def _by_name(register: Register, *parts: Callable[..., Any]) -> None:
    for part in parts:
        register(part.__name__, part)


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
    register("mark", stages.Mark)
    register("fill", stages.Fill)
    register("repeat", rounds.Repeat)
    register("continue", partial.Continue)
    register("balance", allotment.Balance)
    register("steps", steps.Steps)
    register("step_values", steps.StepValues)
    register("pair", pairs.Pair)
    register("unite", consistency.Unite)
    register("allot_by_accuracy", allotment.AllotByAccuracy)
    register("allot_by_gradient", allotment.AllotByGradient)


@hookimpl
def register_sources(register: Register) -> None:
    register("policy", policy.PolicySource)
    register("refinement", refine.RefinementSource)
    register("demonstrations", demonstrations.DemonstrationSource)
    register("prefix", demonstrations.PrefixSource)
    register("own_prefix", prefixes.OwnPrefixSource)
    register("branch", prefixes.BranchSource)
    register("replay", replay.ReplaySource)
    register("repeated_game", games.RepeatedGame)


@hookimpl
def register_environments(register: Register) -> None:
    register("second_try", environments.SecondTry)


@hookimpl
def register_rewards(register: Register) -> None:
    for verifier in (
        match.exact_match,
        match.numeric_match,
        match.choice_match,
        format.thinks_first,
        format.tagged_format,
        format.tag_share,
        format.block_present,
        format.boxed_present,
        format.full_match,
        length.overlong,
        length.linear_length,
        repetition.repetition,
        procedural.letters_answer,
        procedural.arithmetic_answer,
        procedural.countdown_answer,
        procedural.countdown_tagged,
        procedural.compositions_answer,
        procedural.procedural_answer,
        gym.gym_answer,
    ):
        register(verifier.__name__, each(verifier))
    register("kimi_length", length.kimi_length)
    register("cosine_length", length.cosine_length)
    register("math_verify", math_verify.MathVerify)
    register("judge", Judge)


@hookimpl
def register_critics(register: Register) -> None:
    register("indicative", critics.Indicative)
    register("indicative_with_answer", critics.IndicativeWithAnswer)
    register("reference_solution", critics.ReferenceSolution)
    register("llm", LlmCritic)


@hookimpl
def register_advantages(register: Register) -> None:
    _by_name(
        register,
        advantages.group_norm,
        advantages.split_norm,
        advantages.leave_one_out,
        advantages.remax,
        advantages.opo,
        advantages.gpg,
        advantages.pass_at_k,
        advantages.asym_re,
        advantages.opmd,
        advantages.raw_reward,
        advantages.positive_reward,
        advantages.mixed_reward,
        advantages.balanced_reward,
        advantage_variants.red_drop,
        advantage_variants.red_weight,
        advantage_variants.rank_penalised,
        advantage_variants.stratified,
        advantage_variants.gream,
        advantage_variants.counted_norm,
        alignment.advantage_alignment,
        token_advantages.reinforce_plus_plus,
        token_advantages.reinforce_plus_plus_baseline,
        token_advantages.gae,
        token_advantages.remax_tokens,
        token_advantages.gdpo,
        token_advantages.optimal_token_baseline,
        token_advantages.corrected_token_baseline,
        token_advantages.prefix_group_norm,
        kl_reward.reward_minus_kl,
        shaping.shape_overlong,
        shaping.shape_length,
        shaping.policy_filter,
        shaping.duration_weighted,
        allotment.logit_gradient_norm,
        effective_rank.rank_indicators,
        credit.clip_delta,
        credit.process_advantage,
        credit.turn_steps,
        credit.turn_progress,
        credit.decoded_rewards,
        credit.sampled_steps,
        credit.robust_ensemble,
    )
    register("adaptive_kl_reward", kl_reward.AdaptiveKL)
    register("hidden_state_shaping", effective_rank.HiddenStateShaping)


@hookimpl
def register_losses(register: Register) -> None:
    register("sft", supervised.negative_log_likelihood)
    register("entropy_bonus", regularizers.negative_entropy)
    _by_name(
        register,
        policy_gradient.ppo_clip,
        policy_gradient.reinforce,
        policy_gradient.importance_weighted,
        policy_gradient.cispo,
        policy_gradient.sapo,
        policy_gradient.sapo_detached,
        policy_gradient.dro,
        sequence_level.gspo,
        sequence_level.trajectory_clip,
        sequence_level.gmpo,
        sequence_level.vespo,
        sequence_level.vespo_corrected,
        sequence_level.squared_consistency,
        off_policy.topr,
        off_policy.sppo,
        off_policy.opmd,
        off_policy.saturating_ratio,
        off_policy.decoupled_clip,
        negative_aware.nft,
        negative_aware.nft_sequence,
        regularizers.kl_k1,
        regularizers.kl_abs,
        regularizers.kl_k2,
        regularizers.kl_k3,
        regularizers.low_variance_kl,
        regularizers.corrected_kl,
        regularizers.squared_log_ratio,
        credit.return_decomposition,
        credit.randomised_decomposition,
        value_learning.squared_error,
        value_learning.clipped_value,
        value_learning.rover,
        value_learning.rover_response,
        shaped.shaped_likelihood,
        shaped.reshaped_ratio,
        shaped.target_likelihood,
        shaped.mixture_likelihood,
    )


@hookimpl
def register_weights(register: Register) -> None:
    _by_name(
        register,
        weights.importance,
        weights.truncated_is,
        weights.geometric_truncated_is,
        weights.icepop,
        weights.rejection,
        weights.exponential_advantage,
        weights.stored,
        trust.one_sided_trust,
        trust.two_sided_trust,
        trust.ring_trust,
        trust.total_variation_trust,
        trust.binary_kl_trust,
        trust.stale_negatives,
        selection.clip_cov,
        selection.top_covariance,
        selection.entropy_quantile,
        selection.second_moment_trust,
        selection.normalized_is,
        supervised.probability,
        supervised.uncertainty,
        supervised.rarity,
        supervised.hardness,
        supervised.probability_cap,
        entropy_weighted.sequence_entropy,
        entropy_weighted.top_entropy,
        mixing.by_success,
        mixing.shortfall,
    )


@hookimpl
def register_rules(register: Register) -> None:
    register("pairwise", pairs.Pairwise)
    register("consistency", consistency.Consistency)
    register("balanced_clip", adaptive_clip.BalancedClip)


@hookimpl
def register_buffers(register: Register) -> None:
    register("queue", buffers.Queue)
    register("stack", buffers.Stack)
    register("ring", buffers.Ring)
    register("by_prompt", buffers.ByPrompt)
    register("reservoir", drawn.Reservoir)
    register("prioritized", drawn.Prioritized)


@hookimpl
def register_samplers(register: Register) -> None:
    register("ordered", samplers.Ordered)
    register("shuffled", samplers.Shuffled)
    register("prioritized", curriculum.Prioritized)
    register("filtered", curriculum.Filtered)


@hookimpl
def register_tasks(register: Register) -> None:
    register("letters", letters.Letters)
    register("arithmetic", arithmetic.Arithmetic)
    register("countdown", countdown.Countdown)
    register("compositions", compositions.Compositions)
    register("jsonl", files.json_lines)
    register("csv", files.comma_separated)
    register("parquet", files.parquet)
    register("hub", files.hub)
    register("gym", gym.Gym)
    register("mixture", mixture.Mixture)


@hookimpl
def register_generators(register: Register) -> None:
    register("hf", hf_generator.HFGenerator)
    register("vllm", vllm_generator.VllmGenerator)
    register("server", server_generator.ServerGenerator)


@hookimpl
def register_learners(register: Register) -> None:
    register("torch", torch_learner.TorchLearner)
    register("deepspeed", deepspeed_learner.DeepSpeedLearner)


@hookimpl
def register_observers(register: Register) -> None:
    register("jsonl", observers.JsonLines)
    register("tensorboard", observers.TensorBoard)
    register("trajectories", observers.Trajectories)
