"""What enters the losses: supervised rows, mixed advantages and indicative critiques, as released.

Figures: TheRoadQaQ/ReLIFT at eb95454 and zhangxy-2019/critique-GRPO at e8f03a2, executed.
"""

from types import SimpleNamespace

import pytest
import torch

from didact.algorithms.advantages import group_norm
from didact.core.types import Group, Problem, Prompt, Trajectory
from didact.feedback.critics import Indicative, IndicativeWithAnswer
from didact.feedback.demonstrations import DemonstrationSource

ROWS = "hybrid/relift_replace_response.json"
RL = "hybrid/relift_rl_loss.json"
LUFFY = "hybrid/luffy_mixed_loss.json"
ADVANTAGE = "feedback/critique_grpo_advantage.json"
KIND = "feedback/critique_grpo_critique_kind.json"
CRITICS = {"simple": Indicative(), "simple_gt": IndicativeWithAnswer()}


class Numbers:
    """FAKE renderer: a demonstration is written as its token ids."""

    def __init__(self, end):
        self.end = end

    def demonstrations(self, problems):
        return [
            [torch.tensor([*map(int, text.split()), self.end]) for text in problem.demonstrations]
            for problem in problems
        ]

    def texts(self, responses):
        return [" ".join(map(str, tokens.tolist())) for tokens in responses]


def row(problem="a", tokens=(1,), **fields):
    prompt = Prompt(problem, torch.tensor([1]), Problem(problem, problem, **fields))
    tokens = torch.tensor(tokens)
    return Trajectory(prompt, tokens, torch.ones_like(tokens, dtype=torch.bool), "policy")


@pytest.mark.parametrize("at", range(2))
def test_a_demonstration_becomes_the_released_response_and_a_missing_one_no_row(compose, at):
    """The release turns a missing demonstration into a lone end-of-sequence token; we offer no row
    and count it. Prompt, padding and positions are the learner's and not compared here."""
    case = compose.golden(ROWS)["cases"][at]
    given, end = case["inputs"], case["eos_token_id"]
    width = len(given["tgt_input_ids"][0])
    groups = []
    for at_row, target in enumerate(given["tgt_input_ids"]):
        written = [token for token in target if token != case["pad_token_id"]]
        shown = (" ".join(map(str, written)),) if written else ()
        problem = Problem(str(at_row), "", demonstrations=shown)
        groups.append(Group(Prompt(problem.id, torch.tensor(given["prompts"][at_row]), problem)))
    run = SimpleNamespace(seed=0, step=0, metrics={}, renderer=Numbers(end))
    offered = DemonstrationSource(max_tokens=width, overlong="cut").extend(groups, run)
    for at_row, (group, made) in enumerate(zip(groups, offered, strict=True)):
        released = case["outputs"]["responses"][at_row]
        if not group.prompt.problem.demonstrations:
            assert list(made) == []
            assert released[0] == end
            continue
        got = made[0].tokens.tolist()
        assert got == released[: len(got)]
        context = sum(case["inputs"]["attention_mask"][at_row][: len(given["prompts"][at_row])])
        assert sum(case["outputs"]["attention_mask"][at_row]) == context + len(got)
        assert bool(made[0].trainable.all())
    assert run.metrics["demonstrations/missing"] == 1.0


@pytest.mark.parametrize("at", range(4))
def test_advantages_over_own_responses_and_refinement_are_the_released_ones(compose, at):
    case = compose.golden(ADVANTAGE)["cases"][at]
    given = case["inputs"]
    names = sorted(set(given["index"]))
    rewards = torch.tensor(given["scores"], dtype=torch.float64)
    groups = torch.tensor([names.index(name) for name in given["index"]])
    scale = "group" if given["norm_adv_by_std_in_grpo"] else "none"
    got = group_norm(rewards, groups, scale=scale, eps=given["epsilon"])
    spread = got[:, None] * torch.tensor(given["response_mask"], dtype=torch.float64)
    wanted = torch.tensor(case["outputs"]["advantages"], dtype=torch.float64)
    torch.testing.assert_close(spread, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("scale, key", [("none", "no_std"), ("group", "std_eps1e6_unbiased")])
def test_advantages_of_relift_are_the_released_ones(compose, scale, key):
    case = compose.golden(RL)["advantage_group_cases"]
    rewards = torch.tensor(case["scores"], dtype=torch.float64)
    groups = torch.arange(len(rewards))[:, None].expand_as(rewards).reshape(-1)
    got = group_norm(rewards.reshape(-1), groups, scale=scale).reshape(rewards.shape)
    wanted = torch.tensor(case[key], dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("scale, key", [("none", "mixed_no_std"), ("group", "mixed_std")])
def test_advantages_over_rollouts_and_demonstration_are_the_released_ones(compose, scale, key):
    data = compose.golden(LUFFY)
    rewards = torch.tensor([sum(r) for r in data["inputs"]["token_level_rewards"]]).double()
    got = group_norm(rewards, torch.zeros(4, dtype=torch.long), scale=scale)
    wanted = torch.tensor(compose.first(data["advantages"][key]), dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("at", range(3))
def test_indicative_critiques_say_what_the_released_ones_say(compose, at):
    case = compose.golden(KIND)["cases"][at]
    given, wanted = case["inputs"], case["outputs"]
    trajectory = row(answer=given["gt"]).with_signals(success=given["score"])
    (said,) = CRITICS[given["critique_type"]]([trajectory], SimpleNamespace())
    text = said.text.lower()
    assert ("incorrect" in text) == wanted["says_incorrect"]
    assert ("is correct" in text) == wanted["says_correct"]
    assert (given["gt"] in text) == wanted["contains_gt"]
    assert len([part for part in text.split(".") if part.strip()]) == wanted["n_sentences"]
    assert wanted["critic_called"] is False
