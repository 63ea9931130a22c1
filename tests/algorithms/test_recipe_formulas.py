"""The whole rule of a recipe is the formula of its method, written out anew: value and gradient.

For recipes whose whole rule is not compared with a release's figures (`test_golden_recipes`,
`test_hybrid_golden_recipes`): terms, rows, weights, denominators, and what is frozen.
"""

from math import exp

import pytest
import torch

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory
from didact.plugins.manager import load

REGISTRY = load(installed=False)
LENGTHS = [5, 3, 4, 2, 5, 3, 4, 5]
N, T, C = len(LENGTHS), 5, 26
MASK = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
POLICY = ["policy"] * N


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed, scale, like=None):
    noise = torch.randn(N, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * noise if like is None else (like + scale * noise).clamp(max=-0.01)


NEW = -0.05 - 2 * drawn(0, 1).sigmoid()
OLD = drawn(1, 0.25, NEW)
OLD[4, 0], OLD[1, 1] = NEW[4, 0] - 1.6, NEW[1, 1] - 1.5  # beyond a dual clip of 3
DREW, REF = drawn(2, 0.3, OLD), drawn(3, 0.4, NEW)
DREW[5] = OLD[5] - 0.002  # a response on which sampler and trainer agree
ENTROPY, OLD_ENTROPY = 2 * drawn(4, 1).sigmoid(), 2 * drawn(5, 1).sigmoid()
PREFIX = (torch.arange(T) < 2).double().expand(N, T)
ONE = tensor([0.75, -0.5, 0.25, -1, -0.875, 0.625, 1.125, -0.25])
A = ONE[:, None].expand(N, T)
RATE = tensor([0.25] * 4 + [0.5] * 4)
REWARD = tensor([1, 0, 1, 0, 0, 1, 1, 0])
FILTER = tensor([0.5, 0.125] * 4)
NUMBERS = {"advantages": ONE, "success_rate": RATE, "reward": REWARD, "success": REWARD}
NUMBERS |= {"reward_mean": RATE, "filter_weight": FILTER}
COLUMNS = {
    "old_logprobs": OLD,
    "behavior_logprobs": DREW,
    "ref_logprobs": REF,
    "now_logprobs": NEW,
    "now_entropy": ENTROPY,
    "old_entropy": OLD_ENTROPY,
    "prefix": PREFIX,
}


def some(origins):
    """Rows 3 and 7 come from elsewhere."""
    return [origins if at % 4 == 3 else "policy" for at in range(N)]


OURS = MASK & tensor([at % 4 != 3 for at in range(N)]).bool()[:, None]
THEIRS = MASK & ~OURS
GOOD = REWARD[:, None] == 1
OWN, HINT = MASK & (PREFIX == 0), MASK & (PREFIX == 1)
W = (OLD - DREW).exp()


def tokens(loss, mask=MASK):
    return (loss * mask).sum() / mask.sum()


def sequences(loss, mask=MASK):
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


def constant(loss, mask=MASK, rows=N, length=C):
    return (loss * mask).sum() / (rows * length)


def clip(x, low=0.2, high=0.2, dual=None, old=OLD):
    ratio = (x - old).exp()
    loss = torch.maximum(-A * ratio, -A * ratio.clamp(1 - low, 1 + high))
    return loss if dual is None else torch.where(A < 0, torch.minimum(loss, -A * dual), loss)


def free(x):
    return -A * (x - OLD).exp()


def shaped(p):
    return -A * p / (p + 0.1)


def k3(x):
    return (REF - x).exp() - (REF - x) - 1


def mean(x):
    return (x * MASK).sum(1, keepdim=True) / MASK.sum(1, keepdim=True)


def table(values):
    return tensor([values[int(8 * rate)] for rate in RATE])[:, None]


def raft(x, h):
    return tokens(clip(x, dual=3)) + 0.001 * tokens(k3(x)) - 0.001 * tokens(h)


def hpt(x, h):
    return constant(free(x), OURS, 6) + tokens(-x, THEIRS) - 0.001 * tokens(h)


def hpt_soft(x, h):
    on, sft = (
        table([1, 0, 0.125, 0.25, 0.5, 1, 1, 1, 1]),
        table([1, 1, 0.5, 0.25, 0.125, 0, 0, 0, 0]),
    )
    rl = constant(on * free(x), OURS) + constant(shaped(x.exp()), THEIRS)
    return rl + tokens(-sft * x, THEIRS) - 0.001 * tokens(h)


def srft(x, h):
    trust = mean(ENTROPY)
    own = constant(-0.1 * trust.exp() * x, OURS & GOOD) + constant(x, OURS & ~GOOD)
    demo = constant(shaped(x.exp()), THEIRS) + tokens(-0.5 * (-trust).exp() * x, THEIRS)
    return own + demo - 0.001 * tokens(h)


def prefix_rft(x, h):
    begun = THEIRS & HINT
    values = OLD_ENTROPY[begun].sort().values
    kept = begun & (OLD_ENTROPY.ge(values[int(0.8 * len(values))]))
    return constant(clip(x, dual=3), OURS | (THEIRS & OWN) | kept)


def uft(x, h):
    rl = tokens(clip(x), OWN) - 0.001 * tokens(h, OWN) + 0.001 * tokens(k3(x), OWN)
    return rl + 0.001 * tokens(-x, HINT)


def superrl_learned(x, h):
    """s is 0.25 for the policy gradient and 0.5 for the demonstrations."""
    both = exp(-0.5) * constant(clip(x), OURS, 6) + exp(-1) * tokens(-x, THEIRS)
    return both + 0.25 + 0.5


def deepseek_v32(x, h):
    stale = (mean(OLD - NEW) > 0.1) & (A < 0)
    return tokens(clip(x) * ~stale) + 0.001 * tokens((x - OLD).exp() * k3(x))


def prime_rl(x, h):
    moved = NEW.exp() - DREW.exp()
    dropped = ((A > 0) & (moved > 0.2)) | ((A < 0) & (moved < -0.2))
    return tokens(-A * (x - DREW).exp() * ~dropped) + 0.001 * tokens((x - DREW) ** 2)


def m2po(x, h):
    moments = (OLD - DREW)[MASK].square().sort().values
    below = (moments.cumsum(0) / torch.arange(1, len(moments) + 1) < 0.04).nonzero()[-1]
    return tokens(clip(x) * ((OLD - DREW).square() <= moments[below]))


def rejected(x, h):
    inside = mean(OLD - DREW).exp()
    return tokens(clip(x), MASK & (inside >= 0.99) & (inside <= 1.01))


def trajectory(x, h):
    ratio = ((x - OLD) * MASK).sum(1, keepdim=True).exp()
    return sequences(torch.maximum(-A * ratio, -A * ratio.clamp(1 / 1.1, 1.1)))


def kimi(x, h):
    return (-ONE * (x * MASK).sum(1) + 0.05 * ((x - OLD) * MASK).sum(1) ** 2).mean()


def forked(x, h):
    clipped = clip(x, 0.2, 0.28, 10)
    return tokens(clipped * ENTROPY.ge(torch.quantile(ENTROPY[MASK], 0.8)))


def chord_is(x, h):
    return 0.9 * tokens(clip(x, dual=3), OURS) - 0.1 * tokens(NEW.exp() * x, THEIRS)


def adaptive(x, h):
    share = (0.6 - RATE.float()).clamp(min=0).double()[:, None]
    return tokens(clip(x, dual=3), OURS) + tokens(-share * x, THEIRS)


FORMULAS = {
    "grpo dr_grpo brme dars relift sft_rl": lambda x, h: constant(clip(x)),
    "bread reft": lambda x, h: sequences(clip(x)),
    "grpo_deepseek": lambda x, h: sequences(clip(x)) + 0.04 * sequences(k3(x)),
    "dapo reinforce_ada": lambda x, h: tokens(clip(x, 0.2, 0.28, 10)),
    "forking_tokens": forked,
    "lite_ppo gdpo san opo pass_at_k reinforce_plus_plus duration": lambda x, h: tokens(clip(x)),
    "asym_re red_weight_paper pav lare spa demonstration_kl": lambda x, h: tokens(-A * x),
    "reinforce rloo remax": lambda x, h: (-A * x * MASK).sum() / N,
    "reinforce_plus_plus_baseline": lambda x, h: tokens(clip(x) + 0.0005 * (x - REF) ** 2),
    "gream": lambda x, h: tokens(clip(x, dual=10)) + 0.001 * tokens(k3(x)),
    "reinforce_rej gvm_raft": raft,
    "verl_rank": lambda x, h: tokens(clip(x) + 0.001 * k3(x) - 0.001 * h),
    "decoupled_ppo": lambda x, h: tokens(W.clamp(max=5) * clip(x)),
    "truncated_is": lambda x, h: tokens(W.clamp(max=2) * clip(x)),
    "icepop": lambda x, h: tokens(W * ((W >= 0.5) & (W <= 2)) * clip(x)),
    "mismatch_rejection": rejected,
    "m2po": m2po,
    "deepseek_v32": deepseek_v32,
    "prime_rl": prime_rl,
    "loop": lambda x, h: sequences(clip(x, 0.09090909, 0.1)),
    "loop_trajectory": trajectory,
    "kimi": kimi,
    "rover_response": lambda x, h: ((mean(x - OLD)[:, 0] - ONE) ** 2).mean(),
    "pf_ppo spa_released": lambda x, h: tokens(clip(x, dual=3)),
    "pf_ppo_weighted": lambda x, h: tokens(FILTER[:, None] * clip(x, dual=3)),
    "advantage_alignment": lambda x, h: tokens(-W.clamp(max=2) * A * x - 0.01 * h),
    "uft": uft,
    "relift_released": lambda x, h: constant(free(x), length=128) - 0.001 * tokens(h),
    "rl_baseline": lambda x, h: constant(clip(x), length=128) - 0.001 * tokens(h),
    "relift_paper": lambda x, h: tokens(clip(x)),
}
MIXED = {
    "ahpo": lambda x, h: tokens(clip(x), OURS) + tokens(-x, THEIRS),
    "chord_is": chord_is,
    "chord_adaptive": adaptive,
    "hpt_gate2": hpt,
    "hpt_soft": hpt_soft,
    "superrl": lambda x, h: constant(clip(x), OURS, 6) + tokens(-x, THEIRS),
    "superrl_learned": superrl_learned,
    "srft": srft,
    "critique_grpo": lambda x, h: constant(torch.where(OURS, free(x), shaped(x.exp()))),
    "exgrpo": lambda x, h: constant(torch.where(OURS, free(x), shaped((x - DREW).exp()))),
    "prefix_rft": prefix_rft,
}
ORIGINS = {"critique_grpo": "refinement", "exgrpo": "replay", "prefix_rft": "prefix"}
SUPERVISED = {
    "sft rft star raft expert_iteration offline_sl reft relift": lambda x, h: tokens(-x),
    "dft": lambda x, h: tokens(-NEW.exp() * x),
    "relift_released": lambda x, h: tokens(-x) - 0.001 * tokens(h),
    "relift_paper": lambda x, h: tokens(-x) - 0.0001 * tokens(h),
}
CASES = [
    *((n, "rl", POLICY, formula) for names, formula in FORMULAS.items() for n in names.split()),
    *((n, "rl", some(ORIGINS.get(n, "demonstration")), formula) for n, formula in MIXED.items()),
    *((n, "sft", POLICY, formula) for names, formula in SUPERVISED.items() for n in names.split()),
]
FILES = ["relift_released", "relift_paper", "rl_baseline"]
"""Recipes whose own task reads a file."""


def rule_of(name, phase):
    document = read(name, ["task={use: letters}"] if name in FILES else [])
    parts = assemble(check(document, REGISTRY), REGISTRY, document)
    return next(one.rule for one in parts.phases if one.name == phase)


def batch_of(origins):
    rows = []
    for at, length in enumerate(LENGTHS):
        name = "ab"[at // 4]
        rows.append(
            Trajectory(
                prompt=Prompt(name, torch.tensor([1]), Problem(name, name)),
                tokens=torch.ones(length, dtype=torch.int64),
                trainable=torch.ones(length, dtype=torch.bool),
                origin=origins[at],
                signals={key: float(value[at]) for key, value in NUMBERS.items()},
                columns={key: value[at, :length] for key, value in COLUMNS.items()},
            )
        )
    return Batch(tuple(rows))


@pytest.mark.parametrize(
    ("name", "phase", "origins", "formula"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
def test_the_rule_of_a_recipe_is_its_formula(name, phase, origins, formula):
    x, h = (column.clone().requires_grad_(True) for column in (NEW, ENTROPY))
    noise = {"rl_noise": tensor(0.25), "sft_noise": tensor(0.5)}
    batch = batch_of(origins)
    bound = rule_of(name, phase).over(batch, 0)

    def total(rows):
        live = {"logprobs": x[rows], "entropy": h[rows], **noise}
        return sum(bound(batch.take(rows), live).values())

    loss, wanted = total([*range(N)]), formula(x, h)
    pairs = [total([at, at + 1]) for at in range(0, N, 2)]
    torch.testing.assert_close(sum(pairs), loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-9)
    ours, theirs = (torch.autograd.grad(y, (x, h), materialize_grads=True) for y in (loss, wanted))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
