"""Identities between the losses of different methods, on random inputs in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from didact.algorithms.negative_aware import nft, nft_sequence
from didact.algorithms.off_policy import decoupled_clip, opmd, saturating_ratio, topr
from didact.algorithms.policy_gradient import (
    cispo,
    dro,
    importance_weighted,
    ppo_clip,
    reinforce,
    sapo,
    sapo_detached,
)
from didact.algorithms.regularizers import (
    corrected_kl,
    kl_abs,
    kl_k1,
    kl_k2,
    kl_k3,
    low_variance_kl,
)
from didact.algorithms.selection import entropy_quantile, normalized_is, top_covariance
from didact.algorithms.sequence_level import (
    gmpo,
    gspo,
    squared_consistency,
    trajectory_clip,
    vespo,
)
from didact.algorithms.supervised import negative_log_likelihood
from didact.algorithms.trust import one_sided_trust
from didact.algorithms.weights import importance, truncated_is

fast = settings(max_examples=25)
seeds = st.integers(0, 2**31)


class Draw:
    """Log-probabilities of two policies, advantages of both signs, a mask with a token per row."""

    def __init__(self, seed, rows=4, length=6, apart=0.5):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.old = -normal(rows, length).abs() - 0.1
        self.new = (self.old + apart * normal(rows, length)).requires_grad_(True)
        self.gain = normal(rows)
        self.success = (self.gain > 0).double()
        self.rate = torch.rand(rows, generator=generator, dtype=torch.float64) * 0.9 + 0.05
        self.mask = torch.rand(rows, length, generator=generator) < 0.7
        self.mask[:, 0] = True

    @property
    def here(self):
        """The old policy is the live one."""
        return self.new.detach()

    def gradient(self, loss):
        return torch.autograd.grad(torch.where(self.mask, loss, 0.0).sum(), self.new)[0]

    def mean_gradient(self, loss):
        """Averaged by `sequences`."""
        rows = torch.where(self.mask, loss, 0.0).sum(1) / self.mask.sum(1)
        return torch.autograd.grad(rows.mean(), self.new)[0]


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


@fast
@given(seeds)
def test_nft_on_policy_has_the_gradient_of_dr_grpo(seed):
    d = Draw(seed)
    ours = nft(d.new, d.here, d.success, d.rate, prompt_weight="dr_grpo")
    same(d.gradient(ours), d.gradient(reinforce(d.new, d.success - d.rate)))


@fast
@given(seeds)
def test_nft_on_policy_has_the_gradient_of_grpo_with_population_std(seed):
    d = Draw(seed)
    std = (d.rate * (1 - d.rate)).sqrt()
    ours = nft(d.new, d.here, d.success, d.rate, prompt_weight="grpo")
    same(d.gradient(ours), d.gradient(reinforce(d.new, (d.success - d.rate) / std)))


@fast
@given(seeds)
def test_nft_without_negatives_is_rejection_sampling_fine_tuning(seed):
    d = Draw(seed)
    ours = nft(d.new, d.old, d.success, d.rate, negative_weight=0.0, prompt_weight="uniform")
    same(d.gradient(ours), d.gradient(d.success[:, None] * negative_log_likelihood(d.new)))


@fast
@given(seeds)
def test_nft_of_one_token_is_its_sequence_variant(seed):
    d = Draw(seed, length=1)
    same(
        nft(d.new, d.old, d.success, d.rate, prompt_weight="grpo"),
        nft_sequence(d.new, d.old, d.success, d.rate, d.mask, prompt_weight="grpo"),
    )


@fast
@given(seeds)
def test_sft_is_the_clipped_loss_with_unit_advantage_at_ratio_one(seed):
    d = Draw(seed)
    ours = ppo_clip(d.new, d.new, torch.ones(4, dtype=torch.float64))
    same(d.gradient(ours), d.gradient(negative_log_likelihood(d.new)))


@pytest.mark.parametrize("loss", [ppo_clip, importance_weighted, cispo, topr, sapo, dro])
@fast
@given(seeds)
def test_every_token_loss_is_reinforce_at_ratio_one(loss, seed):
    d = Draw(seed)
    gain = d.gain.abs() if loss is sapo else d.gain  # its two temperatures differ by 5 %
    same(d.gradient(loss(d.new, d.new, gain)), d.gradient(reinforce(d.new, gain)))


@fast
@given(seeds)
def test_cispo_and_topr_at_ratio_one_have_also_the_value_of_reinforce(seed):
    d = Draw(seed)
    for loss in (cispo, topr):
        same(loss(d.new, d.new, d.gain), reinforce(d.new, d.gain))


@pytest.mark.parametrize("loss", [gspo, gmpo, vespo, trajectory_clip])
@fast
@given(seeds)
def test_every_sequence_loss_is_a_multiple_of_reinforce_at_ratio_one(loss, seed):
    """Of the mean over sequences; the true ratio of a trajectory is not length-normalised."""
    d = Draw(seed)
    scale = d.mask.sum(1) if loss is trajectory_clip else torch.ones(4, dtype=torch.float64)
    ours = d.mean_gradient(loss(d.new, d.new, d.gain, d.mask))
    same(ours, scale[:, None] * d.mean_gradient(reinforce(d.new, d.gain)))


@pytest.mark.parametrize("loss", [gspo, trajectory_clip])
@fast
@given(seeds)
def test_a_sequence_ratio_of_one_token_is_that_of_ppo(loss, seed):
    d = Draw(seed, length=1)
    clip = {"clip_low": 0.2, "clip_high": 0.28}
    ours, token = loss(d.new, d.old, d.gain, d.mask, **clip), ppo_clip(d.new, d.old, d.gain, **clip)
    same(ours, token)
    same(d.gradient(ours), d.gradient(token))


@fast
@given(seeds)
def test_ppo_is_the_score_function_times_importance_and_one_sided_trust(seed):
    """GRPO in the REC family of arXiv:2509.24203."""
    d = Draw(seed)
    keep = one_sided_trust(d.new, d.old, d.gain, d.mask)
    rec = reinforce(d.new, d.gain) * importance(d.new, d.old, d.mask) * keep
    same(d.gradient(rec), d.gradient(ppo_clip(d.new, d.old, d.gain)))


@fast
@given(seeds)
def test_the_window_of_dots_is_the_decoupled_loss_with_uncapped_weights(seed):
    """clip(rho, w(1-e), w(1+e)) = w clip(r, 1-e, 1+e) because w > 0."""
    d, eps = Draw(seed), 0.2
    sampler = d.old + 0.3 * torch.sin(torch.arange(6, dtype=torch.float64))
    weight = (d.old - sampler).exp()
    ratio, gain = (d.new - sampler).exp(), d.gain[:, None]
    near = torch.minimum(torch.maximum(ratio, weight * (1 - eps)), weight * (1 + eps))
    window = torch.maximum(-gain * ratio, -gain * near)
    uncapped = truncated_is(d.old, sampler, d.mask, cap=math.inf)
    decoupled = ppo_clip(d.new, d.old, d.gain) * uncapped
    same(window, decoupled)
    same(d.gradient(window), d.gradient(decoupled))


@fast
@given(seeds)
def test_an_interpolated_proximal_policy_of_age_one_is_the_samplers(seed):
    d = Draw(seed)
    age = torch.ones(4, dtype=torch.float64)
    same(decoupled_clip(d.new, d.old, d.gain, age), ppo_clip(d.new, d.old, d.gain))


@fast
@given(seeds)
def test_opmd_without_temperature_and_consistency_without_tau_are_reinforce(seed):
    d = Draw(seed)
    same(opmd(d.new, d.gain, tau=0.0), reinforce(d.new, d.gain))
    same(squared_consistency(d.new, d.old, d.gain, d.mask, tau=0.0), reinforce(d.new, d.gain))


@fast
@given(seeds)
def test_consistency_is_the_square_of_the_sequence_ratio(seed):
    d = Draw(seed)
    ours = squared_consistency(d.new, d.old, 0 * d.gain, d.mask, tau=0.6)
    total = torch.where(d.mask, d.new - d.old, 0.0).sum(1)
    same(torch.where(d.mask, ours, 0.0).sum(1), 0.3 * total.square())


@fast
@given(seeds)
def test_the_detached_gate_of_sapo_is_twice_its_gradient_on_policy(seed):
    d = Draw(seed)
    gain = d.gain.abs()
    ours, paper = (loss(d.new, d.new, gain) for loss in (sapo_detached, sapo))
    same(d.gradient(ours), 2 * d.gradient(paper))


@fast
@given(seeds)
def test_a_saturating_ratio_is_bounded_by_the_advantage(seed):
    d = Draw(seed, apart=5.0)
    loss = saturating_ratio(d.new, d.old, d.gain)
    assert (loss.abs() <= d.gain.abs()[:, None]).all()


@pytest.mark.parametrize("kind", [kl_k1, kl_abs, kl_k3, low_variance_kl])
@fast
@given(seeds)
def test_straight_through_keeps_the_value_and_has_the_gradient_of_k2(kind, seed):
    d = Draw(seed)
    ours = kind(d.new, d.old, straight_through=True)
    same(ours, kind(d.new, d.old))
    same(d.gradient(ours), d.gradient(kl_k2(d.new, d.old)))


@fast
@given(seeds)
def test_k3_is_never_negative_and_is_corrected_by_the_ratio(seed):
    d = Draw(seed)
    value = kl_k3(d.new, d.here - d.old * 0.1)
    assert (value >= 0).all()
    same(corrected_kl(d.new, d.here, d.old, d.mask), kl_k3(d.new, d.old))


def test_the_expected_gradient_of_k2_is_that_of_the_reverse_kl():
    """Exactly, over a vocabulary of five: sum_a p(a) grad k2(a) = grad KL(p | ref)."""
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    logits.requires_grad_(True)
    log_p, ref = logits.log_softmax(-1), other.log_softmax(-1)
    estimate = (log_p.exp().detach() * kl_k2(log_p[None], ref[None])[0]).sum()
    exact = (log_p.exp() * (log_p - ref)).sum()
    same(
        torch.autograd.grad(estimate, logits, retain_graph=True)[0],
        torch.autograd.grad(exact, logits)[0],
    )


@fast
@given(seeds)
def test_importance_weights_of_equal_policies_are_one(seed):
    d = Draw(seed)
    for level in ("token", "sequence", "geometric"):
        assert (truncated_is(d.old, d.old, d.mask, level=level) == 1).all()


@fast
@given(seeds)
def test_normalized_weights_have_mean_one_over_the_mask(seed):
    d = Draw(seed)
    weight = normalized_is(d.here, d.old, d.mask)
    assert float(weight[d.mask].mean()) == pytest.approx(1.0, abs=1e-12)


@fast
@given(seeds)
def test_covariance_choice_moves_with_the_rows(seed):
    d = Draw(seed)
    order = torch.tensor([2, 0, 3, 1])
    keep = top_covariance(d.here, d.gain, d.mask, share=0.3)
    moved = top_covariance(d.here[order], d.gain[order], d.mask[order], share=0.3)
    assert torch.equal(keep[order], moved)
    assert int(keep.sum()) == max(int(0.3 * int(d.mask.sum())), 1)


def test_tokens_at_the_entropy_quantile_stay():
    """The median of 1, 2, 3 is 2; the 9 lies outside of the mask."""
    entropy = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    assert entropy_quantile(entropy, mask, quantile=0.5).tolist() == [[0.0, 1.0, 1.0, 0.0]]
