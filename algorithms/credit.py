"""Credit inside an answer from a column of scores: what a step, a turn or an ensemble is worth.

The score columns come from where a recipe gets them: `read: {columns: [scorer_values]}` reads any
value model named under `models:`, `step_values` continues answers, `score` gives reward parts.
Estimators that make `token_rewards` are followed by one that reads them, such as
`{use: reinforce_plus_plus, bind: {rewards: token_rewards}}`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from didact.algorithms import shaping
from didact.algorithms.tensors import masked_mean, masked_sum
from didact.algorithms.token_advantages import at_last_token, whiten
from didact.core.bind import adds
from didact.core.ranges import Count, Share


def at_steps(values: Tensor, step_end: Tensor) -> Tensor:
    """The numbers of a column [N, T] where `step_end` is 1, row by row from the left, [N, K].

    Rows with fewer than K steps end in NaN.
    """
    ends = step_end.bool()
    most = max(int(ends.sum(1).max()), 1)
    rows, places = ends.nonzero(as_tuple=True)
    out = values.new_full((len(values), most), torch.nan)
    return out.index_put((rows, ends.cumsum(1)[rows, places] - 1), values[rows, places])


def along_steps(values: Tensor, step_end: Tensor, mask: Tensor) -> Tensor:
    """The numbers of steps [N, K] on all loss tokens of their step, 0 after the last, [N, T]."""
    ends = step_end.bool().long()
    step = ends.cumsum(1) - ends
    inside = mask & (step < ends.sum(1, keepdim=True))
    return torch.where(inside, values.gather(1, step.clamp(max=values.shape[1] - 1)), 0.0)


@adds("token_rewards")
def clip_delta(
    rewards: Tensor,
    mask: Tensor,
    step_end: Tensor,
    process: Tensor,
    *,
    threshold: float = 1.0,
    alpha: float = 1.0,
) -> dict[str, Tensor]:
    """alpha x clip-then-delta of the process reward at each step's end, and R at the last token.

    J of arXiv:2410.15115: min(p_k - threshold, 0), then p_k - p_(k+1), so that no repetition of
    steps gains anything. The KL term is `reward_minus_kl`.

    Args:
        process: the process reward p of a step at its last token, [N, T].
    """
    steps = _by_row(process, step_end, threshold, alpha)
    return {"token_rewards": steps + at_last_token(rewards, mask)}


def _by_row(process: Tensor, step_end: Tensor, threshold: float, alpha: float) -> Tensor:
    """Row by row, because the second last step is another one in every row."""
    out = torch.zeros_like(process)
    for at, ends in enumerate(step_end.bool()):
        if ends.any():
            steps = shaping.clip_then_delta(process[at][ends], threshold=threshold)
            out[at, ends] = alpha * steps
    return out


@adds("advantages")
def process_advantage(
    mask: Tensor,
    step_end: Tensor,
    step_value: Tensor,
    prover_value: Tensor,
    prover_start: Tensor,
    *,
    alpha: float = 5.0,
    best_of: Count = 1,
    whitened: bool = False,
) -> dict[str, Tensor]:
    """Q of the policy + alpha x advantage of the prover, on each step's tokens. arXiv:2410.08146.

    PAV's effective reward of a step. It is what the step's log-probability is multiplied with, not
    a reward to be summed over later steps: Q has these in it, and a sum would pay for more steps.
    alpha is 5 (2B model) or 3 (9B) in the paper. A policy that is its own prover teaches nothing
    more than its advantage; its best of k is a better prover, whose success rate is 1 - (1 - q)^k.

    Args:
        step_value, prover_value: Q after a step at its last token, [N, T]; success rates.
        prover_start: the prover's value before the first step, [N].
        best_of: k; the prover is the best of so many answers of the one that was valued.
        whitened: over all loss tokens of the step of training.
    """
    after = 1 - (1 - at_steps(prover_value, step_end)) ** best_of
    before = 1 - (1 - prover_start) ** best_of
    own = at_steps(step_value, step_end)
    reward = shaping.process_advantage_reward(own, after, before, alpha=alpha)
    spread = along_steps(reward, step_end, mask)
    return {"advantages": whiten(spread, mask) if whitened else spread}


@adds("step_end")
def turn_steps(mask: Tensor) -> dict[str, Tensor]:
    """`step_end` of episodes whose steps are turns: 1 on the last loss token of each, [N, T]."""
    return {"step_end": shaping.turn_ends(mask).double()}


@adds("token_rewards")
def turn_progress(
    mask: Tensor,
    progress: Tensor,
    grounding: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.5,
    countdown: bool = False,
) -> dict[str, Tensor]:
    """alpha x progress + beta x grounding at the last token of each turn. SPA, arXiv:2505.20732.

    Args:
        progress: the predicted contribution of a turn at its last loss token, [N, T]; or the same
            for every turn, [N], as the released script has the leave-one-out reward.
        grounding: 1 where the turn's action could be executed, at the same token, [N, T] or [N].
        countdown: as the released code (`turn_rewards`), which gives the last turn 0.
    """
    ends = shaping.turn_ends(mask)
    progress, grounding = (
        given if given.dim() == 2 else given[:, None].expand(mask.shape)
        for given in (progress, grounding)
    )
    score = shaping.progress_score(progress, grounding, alpha=alpha, beta=beta)
    turns = at_steps(score, ends)
    return {"token_rewards": shaping.turn_rewards(turns, mask, countdown=countdown)}


@adds("token_rewards")
def decoded_rewards(step_end: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """What a decoder gives each step, at the step's end, 0 elsewhere. LaRe, arXiv:2412.11120.

    The decoder is a value model that learns by the loss `return_decomposition`.

    Args:
        decoded: its output, [N, T].
    """
    return {"token_rewards": torch.where(step_end.bool(), decoded, 0.0)}


def return_decomposition(
    values: Tensor, step_end: Tensor, reward: Tensor, mask: Tensor, *, per_step: bool = True
) -> Tensor:
    """((sum of the decoder's step rewards - R) / L)^2, the same on every token of a row, [B, T].

    RD of LaRe, arXiv:2412.11120 (thu-rllab/LaRe @ 332cbe96), L the number of steps; not divided by
    L (`per_step: false`) it is the regression of SPA's progress, arXiv:2505.20732. With
    `average: sequences` the mean over answers. A row without a step has loss 0.

    Args:
        values: of the value model that decodes, [B, T]; step_end, mask: [B, T]; reward: [B].
    """
    ends = step_end.bool() & mask
    length = ends.sum(1)
    total = torch.where(ends, values, 0.0).sum(1)
    scale = length.clamp(min=1) if per_step else torch.ones_like(length)
    error = torch.where(length > 0, (total - reward) / scale, 0.0).square()
    return torch.where(mask, error[:, None], 0.0)


@adds("step_sampled")
def sampled_steps(step_end: Tensor, draws: Tensor, *, steps: Count = 4) -> dict[str, Tensor]:
    """Column `step_sampled`: 1 on so many step ends of each row, drawn without replacement.

    K of RRD in LaRe, arXiv:2412.11120. A row with fewer steps has all of them; the release draws
    with replacement there.

    Args:
        step_end: [N, T]; draws: uniform random numbers, [N].
    """
    chosen = torch.zeros_like(step_end)
    for at, ends in enumerate(step_end.bool()):
        places = ends.nonzero()[:, 0]
        generator = torch.Generator().manual_seed(int(float(draws[at]) * 2**53))
        order = torch.randperm(len(places), generator=generator).to(places.device)
        chosen[at, places[order[:steps]]] = 1.0
    return {"step_sampled": chosen}


def randomised_decomposition(
    values: Tensor,
    step_end: Tensor,
    step_sampled: Tensor,
    reward: Tensor,
    mask: Tensor,
    *,
    unbiased: bool = True,
) -> Tensor:
    """(mean of K sampled step rewards - R/L)^2 on every token of a row, [B, T].

    RRD of LaRe, arXiv:2412.11120 (thu-rllab/LaRe @ 332cbe96): `return_decomposition` from the steps
    that `sampled_steps` chose; `unbiased` takes off the variance of that choice, (1 - K/L) Var_K /
    K with K - 1. With `average: sequences` the mean over answers. A row without a step has loss 0.

    Args:
        values: of the value model that decodes, [B, T]; step_end, step_sampled, mask: [B, T];
            reward: [B].
    """
    length = (step_end.bool() & mask).sum(1).clamp(min=1)
    picked = step_sampled.bool() & mask
    count = picked.sum(1)
    mean = masked_mean(values, picked)
    error = (mean - reward / length).square()
    if unbiased:
        squares = masked_sum((values - mean[:, None]).square(), picked) / (count - 1).clamp(min=1)
        error = error - (1 - count / length) * squares / count.clamp(min=1)
    return torch.where(mask, torch.where(count > 0, error, 0.0)[:, None], 0.0)


@adds("reward", "reward_nominal", "reward_robust")
def robust_ensemble(
    reward_parts: Tensor, *, nominal: Share = 0.4, stds: bool = False
) -> dict[str, Tensor]:
    """Replace the reward by nominal x surest + (1 - nominal) x lowest of an ensemble of rewards.

    BRME, arXiv:2409.15360: the recipe's rewards are the heads. With `stds` the second half of them
    are the standard deviations of the first, and the surest head is the one with the least;
    without, its place takes the mean of all heads.

    Args:
        reward_parts: [N, K].
        nominal: lambda. Which term the paper's best 0.2-0.4 multiplies is unclear.
    """
    heads = reward_parts.shape[1] // 2 if stds else reward_parts.shape[1]
    means = reward_parts[:, :heads].T
    robust = means.amin(0)
    if stds:
        blended = shaping.robust_reward(means, reward_parts[:, heads:].T, nominal=1.0)
    else:
        blended = means.mean(0)
    reward = nominal * blended + (1 - nominal) * robust
    return {"reward": reward, "reward_nominal": blended, "reward_robust": robust}
