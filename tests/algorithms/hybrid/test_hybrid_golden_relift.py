"""ReLIFT: losses and the step with two optimizers against the released code.

Figures: TheRoadQaQ/ReLIFT at eb95454, executed; see the provenance in tests/golden/hybrid.
"""

import math

import pytest
import torch

from didact.algorithms.policy_gradient import ppo_clip
from didact.algorithms.regularizers import negative_entropy
from didact.algorithms.rules import Sum
from didact.algorithms.supervised import negative_log_likelihood

RL = "hybrid/relift_rl_loss.json"
SFT = "hybrid/relift_sft_loss.json"
STEP = "hybrid/relift_actor_step.json"
OFF = {"clip_low": math.inf, "clip_high": math.inf}


@pytest.mark.parametrize("at", range(8))
def test_policy_gradient_has_the_released_value_and_gradient(compose, at):
    data = compose.golden(RL)
    given, case = data["inputs"], data["cases"][at]
    config = case["config"]
    advantages = data["advantages"].get(config["advantages"], given["adv_random"])
    batch = compose.rows(
        given["mask"],
        signals={"advantages": compose.first(advantages)},
        columns={"old_logprobs": given["old_log_prob"]},
    )
    clip = OFF if config["loss_remove_clip"] else {}
    average = 12.0 if config["loss_remove_token_mean"] else "tokens"
    terms = [compose.term(ppo_clip, average=average, **clip)]
    live = {"logprobs": compose.leaf(given["log_prob"])}
    tolerance = 2e-6 if config["advantages"] == "grpo_std" else 1e-7
    compose.agrees(
        terms,
        batch,
        live,
        case["outputs"]["pg_loss"],
        case["grad_wrt_log_prob"],
        atol=tolerance,
    )


def sft_live(given, compose):
    logits = compose.leaf(given["logits"])
    log_p = logits.log_softmax(-1)
    labels = torch.tensor(given["labels"])
    return logits, {
        "logprobs": log_p.gather(-1, labels[..., None]).squeeze(-1),
        "entropy": -(log_p.exp() * log_p).sum(-1),
    }


@pytest.mark.parametrize("at", range(2))
def test_supervised_loss_minus_entropy_has_the_released_gradient_at_the_logits(compose, at):
    data = compose.golden(SFT)
    given, case = data["inputs"], data["cases"][at]
    logits, live = sft_live(given, compose)
    torch.testing.assert_close(
        live["logprobs"].detach(),
        torch.tensor(data["per_token"]["log_prob"], dtype=torch.float64),
        rtol=0,
        atol=1e-7,
    )
    terms = [
        compose.term(negative_log_likelihood, "sft"),
        compose.term(negative_entropy, "entropy", weight=case["entropy_coeff"]),
    ]
    values = compose.loss(terms, compose.rows(given["mask"]), live)
    total = sum(values.values())
    assert float(values["sft"].detach()) == pytest.approx(case["sft_loss"], abs=1e-7)
    assert float(total.detach()) == pytest.approx(case["loss"], abs=1e-7)
    (gradient,) = torch.autograd.grad(total, logits)
    assert float(gradient.norm()) == pytest.approx(case["grad_logits_frobenius"], abs=1e-7)
    for row, token in ((0, 0), (3, 3)):
        wanted = torch.tensor(case[f"grad_logits_row{row}_tok{token}"], dtype=torch.float64)
        torch.testing.assert_close(gradient[row, token], wanted, rtol=0, atol=1e-7)


def test_supervised_loss_is_one_token_mean_however_the_mini_batch_is_cut(compose):
    """Case 1 of the released function is the token mean of all rows; `loss` compares it with the
    sum over micro-batches of one row."""
    data = compose.golden(SFT)
    _, live = sft_live(data["inputs"], compose)
    terms = [
        compose.term(negative_log_likelihood, "sft"),
        compose.term(negative_entropy, "entropy", weight=0.001),
    ]
    values = compose.loss(terms, compose.rows(data["inputs"]["mask"]), live)
    total = sum(values.values()).detach()
    assert float(total) == pytest.approx(data["cases"][1]["loss"], abs=1e-7)


@pytest.mark.parametrize(
    "key, weight", [("divisor_2_intended", 1.0), ("divisor_16_as_on_8_gpus", 1 / 8)]
)
def test_released_accumulation_is_a_mean_of_micro_batch_means(compose, key, weight):
    """The release averages tokens within each micro-batch of two and then over micro-batches, and
    with W ranks divides by W once more. A loss that depends on memory is not offered; with each
    micro-batch in the place of a prompt, `average: prompts` is the same figure, and the term's
    weight is the 1/W."""
    data = compose.golden(SFT)
    logits, live = sft_live(data["inputs"], compose)
    batch = compose.rows(data["inputs"]["mask"], prompts=["a", "a", "b", "b"])
    terms = [
        compose.term(negative_log_likelihood, "sft", weight=weight, average="prompts"),
        compose.term(negative_entropy, "entropy", weight=0.001 * weight, average="prompts"),
    ]
    total = sum(compose.loss(terms, batch, live).values())
    loss, norm = data["microbatch_accumulation"][key]
    assert float(total.detach()) == pytest.approx(loss, abs=1e-7)
    assert float(torch.autograd.grad(total, logits)[0].norm()) == pytest.approx(norm, abs=1e-7)


class Bigram(torch.nn.Module):
    """Logits of the next token are a row of a table."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(table, dtype=torch.float64))

    def forward(self, ids, prompt):
        log_p = self.table[ids[:, prompt - 1 : -1]].log_softmax(-1)
        chosen = log_p.gather(-1, ids[:, prompt:, None]).squeeze(-1)
        return {"logprobs": chosen, "entropy": -(log_p.exp() * log_p).sum(-1)}


def one_step(model, ids, prompt, batch, terms, micro, optimizer, clip):
    """One mini-batch in micro-batches, as a learner does it. Returns the gradient's norm."""
    bound = Sum(terms).over(batch, 0)
    for start in range(0, len(batch), micro):
        part = list(range(start, start + micro))
        sum(bound(batch.take(part), model(ids[part], prompt)).values()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


def actor_step(compose, at, entropy_average):
    data = compose.golden(STEP)
    given, run = data["inputs"], data["runs"][at]
    config, prompt, width = run["config"], given["P"], given["R"]
    ids = torch.tensor(given["input_ids"])
    model = Bigram(given["W0"])
    mask = [[1] * n + [0] * (width - n) for n in given["response_lengths"]]
    old = model(ids, prompt)["logprobs"].detach()

    def rows(chosen, micro):
        return compose.rows(
            [mask[i] for i in chosen],
            prompts=[f"micro {i // micro}" for i in chosen],
            signals={"advantages": compose.first([run["advantages"][i] for i in chosen])},
            columns={"old_logprobs": old[list(chosen)]},
        )

    clip = OFF if config["loss_remove_clip"] else {}
    rl = [
        compose.term(ppo_clip, "pg", average=float(2 * width), **clip),
        compose.term(negative_entropy, "entropy", weight=0.001, average=entropy_average),
    ]
    main = torch.optim.AdamW(model.parameters(), lr=run["lr"], weight_decay=0.01)
    norms = []
    for start in (0, 4):
        chosen = range(start, start + 4)
        norms.append(
            one_step(
                model,
                ids[start : start + 4],
                prompt,
                rows(chosen, 2),
                rl,
                2,
                main,
                config["grad_clip"],
            )
        )
    after_rl = model.table.detach().clone()
    sft = [
        compose.term(negative_log_likelihood, "sft", average=entropy_average),
        compose.term(negative_entropy, "entropy", weight=0.001, average=entropy_average),
    ]
    second = torch.optim.AdamW(model.parameters(), lr=run["lr_sft"], weight_decay=0.01)
    norm = one_step(model, ids, prompt, rows(range(8), 4), sft, 4, second, config["sft_grad_clip"])
    return run, old, norms, after_rl, norm, model.table.detach()


@pytest.mark.parametrize("at", range(4))
def test_two_rl_steps_and_one_supervised_step_leave_the_released_weights(compose, at):
    """Micro-batches stand in for prompts in the two token means, as above."""
    run, old, norms, after_rl, norm, after_sft = actor_step(compose, at, "prompts")

    def same(got, key):
        wanted = torch.tensor(run[key], dtype=torch.float64)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-8)

    same(old, "old_log_probs")
    assert norms == pytest.approx(run["rl_metrics"]["actor/grad_norm"], abs=1e-8)
    same(after_rl, "W_after_rl")
    assert norm == pytest.approx(run["sft_metrics"]["actor/sft_grad_norm"][0], abs=1e-8)
    same(after_sft, "W_after_sft")


def test_the_average_we_offer_is_close_to_the_released_one_but_not_equal(compose):
    """Token means over the mini-batch instead of means of micro-batch means: the difference is
    there, and is below 5 % of what the steps moved (learning rate 0.01, run 0)."""
    run, *_, after_sft = actor_step(compose, 0, "tokens")
    released = torch.tensor(run["W_after_sft"], dtype=torch.float64)
    moved = run["delta_rl_norm"] + run["delta_sft_norm"]
    assert 1e-8 < float((after_sft - released).norm()) < 0.05 * moved
