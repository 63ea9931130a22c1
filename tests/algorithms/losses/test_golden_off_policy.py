"""Decoupled, windowed, replayed and probability-masked losses of released code, executed.

The files hold values in float32 and no gradients: tolerance 1e-6.
"""

import math

import pytest
import torch

from didact.algorithms.off_policy import saturating_ratio
from didact.algorithms.policy_gradient import importance_weighted, ppo_clip
from didact.algorithms.regularizers import kl_abs, squared_log_ratio
from didact.algorithms.rules import Bound
from didact.algorithms.selection import clip_cov, second_moment_trust, top_covariance
from didact.algorithms.sequence_level import gspo
from didact.algorithms.shaped import reshaped_ratio
from didact.algorithms.tensors import interpolated_logprobs
from didact.algorithms.trust import total_variation_trust
from didact.algorithms.weights import icepop, rejection, truncated_is

FOLDER = "replay_curriculum/"
IPO = {"low": 0.15, "high": 0.15}  # the file does not say; any bound between its 0.1 and 0.2 fits
INVERTED = {"old_logprobs": "behavior_logprobs", "behavior_logprobs": "old_logprobs"}


def rejecting(config):
    """AReaL's block: a weight, clamped or masked by a metric of token or sequence."""
    if config is None:
        return []
    low = 0.0 if config["lower"] is None else config["lower"]
    bounds = {"low": low, "high": config["upper"]}
    if config["metric"] == "ratio":
        level = "geometric" if config["level"] == "sequence" else "token"
        if config["action"] == "clamp":
            clamp = {"floor": low, "cap": config["upper"], "level": level}
            return [Bound(truncated_is, clamp)]
        return [Bound(icepop, {**bounds, "level": level})]
    over = "token" if config["level"] == "token" else config["agg"]
    statistic = config["metric"].removeprefix("kl_")
    inverted = INVERTED if statistic == "k3" else {}  # AReaL's k3 is that of the inverse ratio
    mask = Bound(rejection, {"statistic": statistic, "over": over, **bounds}, inverted)
    return [Bound(truncated_is, {"cap": math.inf}), mask]


@pytest.mark.parametrize("at", range(17))
def test_decoupled_loss_of_areal_agrees(compose, at):
    (case,) = compose.golden(FOLDER + "areal_decoupled_loss.json")["cases"]
    result = case["results"][at]
    if "importance_sampling_level" in result:
        clip = {"clip_low": result["eps_clip"], "clip_high": result["eps_clip_higher"]}
        term = compose.term(gspo, **clip)
    else:
        times, dual = rejecting(result["cfg"]), result["c_clip"]
        term = compose.term(ppo_clip, times=times, dual_clip=dual)
    value, _ = compose.run(
        [term],
        case["mask"],
        {"logprobs": case["logprobs"]},
        old_logprobs=case["proximal"],
        behavior_logprobs=case["behave"],
        advantages=case["advantages"],
    )
    assert float(value) == pytest.approx(result["loss"], abs=1e-6)


def test_window_loss_of_dots_is_the_decoupled_loss_with_uncapped_weights(compose):
    (case,) = compose.golden(FOLDER + "dots_rr_loss.json")["cases"]
    columns = {"old_logprobs": case["pi_old_logp"], "behavior_logprobs": case["mu_logp"]}
    clip = {"clip_low": case["eps"], "clip_high": case["eps"]}
    uncapped = [Bound(truncated_is, {"cap": math.inf})]
    for times, wanted in ((uncapped, case["loss"]), ([], case["plain_ppo_loss"])):
        if not times:
            columns["old_logprobs"] = case["mu_logp"]
        value, _ = compose.run(
            [compose.term(ppo_clip, times=times, **clip)],
            case["mask"],
            {"logprobs": case["pi_logp"]},
            advantages=case["adv"],
            **columns,
        )
        assert float(value) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("name", "space"), [("loglinear", "log"), ("linear_prob", "probability")])
def test_interpolated_log_probabilities_of_areal_agree(compose, name, space):
    """A version of -1 marks a token that was not sampled: no versions apart."""
    case = compose.golden(FOLDER + "areal_prox_m2po.json")["cases"][0]
    old, new, version = (torch.tensor(case[n]) for n in ("old_logp", "logprobs", "versions"))
    age = torch.where(version < 0, 0, case["current_version"] - version).float()
    ours = interpolated_logprobs(new, old, age, space=space)
    torch.testing.assert_close(ours, torch.tensor(case["out"][name]), rtol=0, atol=1e-6)


def test_second_moment_mask_of_areal_agrees(compose):
    case = compose.golden(FOLDER + "areal_prox_m2po.json")["cases"][1]
    old, prox = (torch.tensor(case[name]) for name in ("old_logp", "prox_logp"))
    mask = torch.tensor(case["mask"]).bool()
    keep = second_moment_trust(prox, old, mask, threshold=case["m2_threshold"])
    assert keep.tolist() == case["new_mask"]


def test_second_moment_mask_keeps_one_token_when_all_moved_too_far():
    mask = torch.ones(1, 3, dtype=torch.bool)
    keep = second_moment_trust(torch.tensor([[3.0, 2.0, 4.0]]), torch.zeros(1, 3), mask)
    assert keep.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("variant", ["default", "ipo"])
@pytest.mark.parametrize("at", [0, 1])
def test_masked_losses_of_prime_rl_agree(compose, at, variant):
    case = compose.golden(FOLDER + "prime_rl_losses.json")["cases"][at]
    bound = {"low": 0.2, "high": 0.2} if variant == "default" else IPO
    trust = Bound(total_variation_trust, {**bound, "one_sided": variant == "default"})
    value, _ = compose.run(
        [
            compose.term(importance_weighted, times=[trust], average=1),
            compose.term(squared_log_ratio, weight=1e-3, average=1),
        ],
        [case["mask"]],
        {"logprobs": [case["trainer"]]},
        old_logprobs=[case["inference"]],
        advantages=[case["adv"]],
    )
    assert float(value) == pytest.approx(case[f"{variant}_loss_sum"], abs=1e-6)


def exgrpo(compose, case, result):
    """Fresh and replayed rows as two terms over one denominator."""
    how = 4 if result["remove_token_mean"] else sum(map(sum, case["mask"]))
    open_ended = {"clip_low": math.inf, "clip_high": math.inf}
    clip = open_ended if result["remove_clip"] else {"clip_low": 0.2, "clip_high": 0.2}
    off = {
        "no_reshape": (importance_weighted, {}),
        "p_div_p_0.1": (saturating_ratio, {"gamma": 0.1}),
        "square_root": (reshaped_ratio, {"reshape": "square_root"}),
    }
    loss, settings = off[result["reshape"]]
    replayed = torch.tensor(case["off_policy_rows"])[:, None]
    on, off_mask = (torch.tensor(case["mask"]).bool() & part for part in (~replayed, replayed))
    columns = {"old_logprobs": case["old"], "advantages": case["adv"]}
    fresh, _ = compose.run(
        [compose.term(ppo_clip, average=how, **clip)], on, {"logprobs": case["new"]}, **columns
    )
    replay, _ = compose.run(
        [compose.term(loss, average=how, **settings)],
        off_mask,
        {"logprobs": case["new"]},
        **columns,
    )
    return float(fresh + replay)


@pytest.mark.parametrize("at", range(6))
def test_replayed_loss_of_exgrpo_agrees(compose, at):
    (case,) = compose.golden(FOLDER + "exgrpo_loss.json")["cases"]
    result = case["results"][at]
    assert exgrpo(compose, case, result) == pytest.approx(result["pg_loss"], abs=1e-6)


def test_dual_clip_with_clip_higher_of_arpo_agrees(compose):
    (case,) = compose.golden(FOLDER + "arpo_grpo_loss.json")["cases"]
    clip = {name: case[name] for name in ("clip_low", "clip_high")}
    value, _ = compose.run(
        [compose.term(ppo_clip, dual_clip=case["clip_dual"], **clip)],
        case["mask"],
        {"logprobs": case["log_probs"]},
        old_logprobs=case["old_log_probs"],
        advantages=case["advantages"],
    )
    assert float(value) == pytest.approx(case["loss"], abs=1e-6)


AVERAGES = {
    "token-mean": "tokens",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequences",
    "seq-mean-token-sum-norm": 4,  # the padded length; not also the number of rows
}


def spear(compose, config, how):
    """The four losses of the file by the name of their value."""
    clip = {"clip_low": config["clip_low"], "clip_high": config["clip_high"]}
    frozen = {"logprobs": "frozen"}
    band = {
        "share": config["clip_cov_ratio"],
        "cov_low": config["lb"],
        "cov_high": config["ub"],
        "seed": 0,
    }
    choice = Bound(clip_cov, {**band, **clip}, frozen)
    term, names = compose.term, {"ref_logprobs": "old_logprobs"}
    out = {
        "clip_cov_loss": [term(ppo_clip, select=[choice], average=how, **clip)],
        "vanilla_loss": [term(ppo_clip, average=how, dual_clip=config["clip_c"], **clip)],
    }
    for name, share in (
        ("kl_cov_loss", "kl_cov_ratio"),
        ("kl_cov_replay_loss", "kl_cov_ratio_replay"),
    ):
        top = Bound(top_covariance, {"share": config[share]}, frozen)
        penalty = {"weight": config["ppo_kl_coef"], "bind": names}
        base = term(importance_weighted, average=how)
        out[name] = [base, term(kl_abs, select=[top], average=how, **penalty)]
    return out


@pytest.mark.parametrize("mode", AVERAGES)
def test_covariance_losses_of_spear_agree(compose, mode):
    (case,) = compose.golden(FOLDER + "spear_cov_losses.json")["cases"]
    (result,) = [r for r in case["results"] if r["mode"] == mode]
    for name, terms in spear(compose, case["cfg"], AVERAGES[mode]).items():
        value, _ = compose.run(
            terms,
            case["mask"],
            {"logprobs": case["log_prob"]},
            old_logprobs=case["old_log_prob"],
            advantages=case["advantages"],
            frozen=case["log_prob"],
        )
        assert float(value) == pytest.approx(result[name], abs=1e-6), name
