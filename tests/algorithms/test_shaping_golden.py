"""Shaping, credit and allocation agree with the released code."""

import pytest
import torch
from released import close, content, golden, over, t

from didact.algorithms import advantages as adv
from didact.algorithms import alignment, allocation, kl_reward, redistribution, shaping
from didact.algorithms import effective_rank as rank
from didact.algorithms import token_advantages as tok
from didact.core.protocols import Stateful

VERL_ER = "update_rules/credit_and_shaping.json"
REPOS = "update_rules/other_repos_advantages.json"
VERL = "update_rules/verl_misc_shaping.json"


@over(VERL_ER, "verl/effective_rank")
def test_effective_rank_and_its_dynamics(args, i, o):
    hidden = t(i["hidden"])
    acceleration, velocity, whole = rank.rank_dynamics(hidden, stride=args["stride"])
    close(whole, o["effective_rank"], 2e-6)  # float32
    # the released velocity comes from eigenvalues of a running Gram matrix, or from SVD in float32
    speeds = t(o["diffs_original"]["Effective Rank diff"])
    assert abs(velocity - speeds.mean()) < 2e-5
    assert abs(acceleration - speeds.diff().mean()) < 2e-5
    assert abs(velocity - o["response_ERV"]) < 5e-3


@over(VERL_ER, "verl/advantage_shaping")
def test_the_bonus_is_limited_by_the_advantage(args, i, o):
    ours = rank.bonus_limited(
        t(i["base_advantage"]), t(i["aux_rewards"]), kappa=args["adv_shaping_kappa"]
    )
    close(ours, o["advantages"])


GATES = {"PlanB": "acceleration", "FixTwo": "even", "FixOne": "sum"}


@pytest.mark.parametrize("plan", GATES)
def test_the_rank_bonus_follows_a_running_mean_of_steps(plan):
    ((_, args, _, outputs),) = golden(VERL_ER, f"verl/aux_reward/{plan}")
    shape = rank.HiddenStateShaping(
        gate=GATES[plan], gain=args["modulation_gain"], rate=args["ema_alpha"]
    )
    for step in outputs["steps"]:
        if step["metrics_old_means"] is not None:  # what the released function is handed
            shape.previous = t(step["metrics_old_means"])
        close(shape.mean, step["ema_before"])
        bonus = shape.bonus(t(step["indicators"]))
        close(shape.mean, step["ema_after"])
        close(bonus, step["aux"], 1e-2)  # summed in bfloat16 as released


def test_hidden_state_shaping_resumes_from_its_state():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    signals = [(t([0.5, 0.1]), t([0.7, 0.8]), t([6.0, 11.0]))] * 3
    whole, first, second = (rank.HiddenStateShaping() for _ in range(3))
    assert isinstance(whole, Stateful)
    base = t([1.0, -1.0])
    outs = [whole(base, mask, *s) for s in signals]
    close(outs[0], base[:, None] * mask, 0)
    first(base, mask, *signals[0])
    first(base, mask, *signals[1])
    second.load_state_dict(first.state_dict())
    close(second(base, mask, *signals[2]), outs[2], 0)
    assert (outs[2] != outs[0]).nonzero().tolist() == [[0, 1], [1, 2]]


@over(VERL_ER, "spa/step_rewards")
def test_spa_places_turn_scores_and_a_kl_penalty(args, i, o):
    mask = t(i["masks"]).bool()
    width = max(map(len, i["step_scores"]))
    scores = t([[*row, *[0.0] * (width - len(row))] for row in i["step_scores"]])
    placed = shaping.turn_rewards(scores, mask, countdown=True)
    ours = kl_reward.reward_minus_kl(
        placed, mask, t(i["logprobs"]), t(i["ref_logprobs"]), beta=args["kl_coef"]
    )
    # as released the penalty also stands on observation tokens, which carry no loss
    close(ours["token_rewards"], torch.where(mask, t(o["rewards"]), 0.0))


@over(VERL_ER, "adalign/group_relative_advantage")
def test_advantage_alignment_starts_from_leave_one_out_by_round(args, i, o):
    rewards, gamma = t(i["rewards"]), args["discount_factor"]
    one = torch.zeros(len(rewards), dtype=torch.long)
    close(alignment.round_returns(rewards, gamma=gamma), o["returns"])
    close(alignment.round_advantages(rewards, one, gamma=gamma), o["rloo"])


@over(VERL_ER, "adalign/credits")
def test_advantage_alignment_credits(args, i, o):
    own, other = t(i["a1"]), t(i["a2"])
    shared = {"include_now": not args["exclude_k_equals_t"], "discount": "discount_t" in args}
    weights = alignment.alignment_weights(own, gamma=args["gamma"], **shared)
    if "use_sign" not in args:
        close(weights, o["weights"])
    ours = alignment.aligned_advantages(
        own,
        other,
        beta=args["beta"],
        gamma=args["gamma"],
        signs="use_sign" in args,
        per_round="use_time_regularization" in args,
        whitened="all" if "whiten_adalign_advantages" in args else "no",
        **shared,
    )
    # as released, gamma ** t is float32
    close(ours, o["credits"], 1e-6)


RULES = {"pow": "power", "max_min": "best_and_worst", "max_random": "best_and_others"}


@over(VERL_ER, "pf_ppo/weights")
def test_pf_ppo_weights_by_prompt(args, i, o):
    groups = torch.tensor([int(name[1:]) for name in i["prompts"]])
    for released, rule in RULES.items():
        ours = shaping.filter_weights(t(i["reward"]), groups, rule=rule, power=args["weight_pow"])
        close(ours, o[released])


@over(VERL, "pf_ppo")
def test_pf_ppo_weights_over_the_batch(args, i, o):
    rewards = t(i["token_level_scores"]).sum(1)
    batch = torch.zeros(len(rewards), dtype=torch.long)
    rule, power = RULES[args["reweight_method"]], args["weight_pow"]
    ours = shaping.filter_weights(rewards, batch, rule=rule, power=power, floor=1e-8)
    close(ours, o["sampling_weights_unnormalised"])


@over(VERL, "masked_stats")
def test_whitening(args, i, o):
    mask = t(i["mask"]).bool()
    expected = torch.where(mask, t(o["whiten"]), 0.0)
    close(tok.whiten(t(i["values"]), mask), expected)


@over(VERL, "adaptive_kl")
def test_beta_follows_the_kl(args, i, o):
    beta = args["init_kl_coef"]
    for kl, expected in zip(i["current_kl"], o["values"], strict=True):
        beta = kl_reward.next_beta(
            beta, kl, target=args["target_kl"], horizon=args["horizon"], rows=args["n_steps"]
        )
        assert beta == pytest.approx(expected, abs=1e-12)


def lare_steps(lengths, count, seed):
    numpy = pytest.importorskip("numpy")
    numpy.random.seed(seed)  # the released code draws so
    drawn = [numpy.random.choice(int(n), count, replace=count > n) for n in lengths]
    return torch.tensor(numpy.stack(drawn))


LARE = golden(VERL_ER, "lare")


@pytest.mark.parametrize("case", LARE, ids=[f"{at}-{c[0]}" for at, c in enumerate(LARE)])
def test_lare_losses_and_gradients(case):
    name, args, i, o = case
    weight = t([[0.3, -0.2, 0.5]]).requires_grad_()
    bias = t([0.1]).requires_grad_()
    steps = (t(i["latent_factors"]) @ weight.T + bias)[..., 0]
    lengths, returns = t(i["episode_length"]), t(i["episode_return"])
    if name.startswith("lare/RRD"):
        sampled = lare_steps(lengths, args["K"], args["np_random_seed"])
        loss = redistribution.randomised_decomposition(
            steps, lengths, returns, sampled, unbiased=args["rrd_unbiased"]
        )
    else:
        loss = redistribution.return_decomposition(steps, lengths, returns)
    loss.backward()
    close(loss.detach(), o["loss"])
    close(weight.grad, o["grad_w"])
    close(bias.grad, o["grad_b"])


@over("update_rules/trinity_advantages.json", "dapo")
def test_overlong_penalty(args, i, o):
    ours = shaping.overlong_penalty(
        torch.tensor(i["response_len"]),
        max_tokens=args["max_response_length"],
        cache=args["cache_length"],
        factor=args["penalty_factor"],
    )
    close(ours, o["penalty"])


def test_critique_rl_returns():
    for case in content("feedback/critique_rl_rloo.json")["cases"]:
        i, o = case["inputs"], case["outputs"]
        rewards = t(i["rewards"])
        groups = torch.arange(len(rewards)) // i["group"]
        alone = adv.leave_one_out(rewards, groups)
        close(alone, o["rloo"])
        mask = t(i["action_mask"]).bool()
        placed = kl_reward.reward_minus_kl(
            alone[: i["group"]],
            mask,
            t(i["kl"]),
            torch.zeros(mask.shape),
            beta=i["kl_coef"],
            clip=10,
        )["token_rewards"]
        close(placed, torch.where(mask, t(o["token_rewards_first_group"]), 0.0))
        returns = tok.discounted_returns(placed, mask, gamma=i["gamma"])
        close(returns, torch.where(mask, t(o["returns_first_group"]), 0.0))


def test_text2grad_advantages_from_token_scores():
    for case in content("feedback/text2grad_reward_advantage.json")["cases"]:
        i, o = case["inputs"], case["outputs"]
        mask = t(i["mask"]).bool()
        scores = torch.where(mask, t(i["token_scores_with_bos"])[:, 1:], 0.0)
        rewards = scores - i["kl_coef"] * t(o["kl"])
        ours = tok.gae(rewards, mask, t(i["values"]) * mask, gamma=i["gamma"], lam=i["lam"])
        expected = torch.where(mask, t(o["advantages_whitened"]), 0.0)
        close(ours["advantages"], expected)


def test_dars_and_gvm_and_ada():
    for name, args, i, o in golden(REPOS, "dars"):
        schedule = {"ET": "equal", "HW": "weighted"}[name.removeprefix("dars/schedule_")]
        shared = {"n": args["N"], "most": args["N_max"], "standardised": args["std"]}
        ours = [allocation.dars_extra(u, schedule=schedule, **shared) for u in i["acc"]]
        assert ours == o["delta_n"], (name, args)
    for _, args, i, o in golden(REPOS, "gvm"):
        shares = allocation.gvm_shares(
            i["G"], i["accept_rate"], alpha=args["alpha"], beta=args["beta"]
        )
        assert shares == pytest.approx(o["ratio"], abs=1e-12)
        assert allocation.whole_numbers(shares, args["N"]) == o["allocation"]
    for _, args, i, o in golden(REPOS, "reinforce_ada/down"):
        good, bad = allocation.ada_kept(i["n_pos"], i["n_neg"], keep=args["target_total"])
        kept = [f"p{at}" for at in range(good)] + [f"n{at}" for at in range(bad)]
        assert kept == o["selected"], (i, args)
