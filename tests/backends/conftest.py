"""Small models, mixed batches and rules for the tests of the backends."""

import pytest
import torch

from didact.algorithms.rules import Bound, Sum, Term, vanishes_with
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.batch import Batch
from didact.core.types import Problem, Prompt, Trajectory
from didact.core.where import Where


def small_spec():
    small = quickstart_model() | {"hidden_size": 48, "num_hidden_layers": 2, "head_dim": 12}
    return ModelSpec(config=small, tokenizer="characters")


def moved_model():
    """Weights far from their start, so that distributions are not nearly uniform."""
    made = load_model(small_spec(), load_tokenizer(small_spec()))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=draw) * 0.05)
    return made


@pytest.fixture(scope="session")
def spec():
    return small_spec()


@pytest.fixture(scope="session")
def tokenizer(spec):
    return load_tokenizer(spec)


@pytest.fixture
def model():
    return moved_model()


@pytest.fixture
def fresh():
    """Makes equal models, as many as a test needs."""
    return moved_model


@pytest.fixture
def mixed():
    """Makes a batch for each step."""
    return mixed_batch


def row(at, draw, origin="policy", advantage=1.0, size=None):
    context, response = (int(n) for n in torch.randint(1, 12, (2,), generator=draw))
    tokens = torch.randint(3, 99, (size or response,), generator=draw)
    prompt = Prompt(
        f"p{at // 2}", torch.randint(3, 99, (context,), generator=draw), Problem("", "")
    )
    trainable = torch.ones(len(tokens), dtype=torch.bool)
    if at % 3 == 0:
        trainable[: len(tokens) // 2] = False
    columns = {}
    if origin == "policy":
        columns["behavior_logprobs"] = -3 - torch.rand(len(tokens), generator=draw)
    signals = {"advantages": advantage} if origin == "policy" else {}
    return Trajectory(prompt, tokens, trainable, origin, signals=signals, columns=columns)


def mixed_batch(seed=0, count=14):
    """Rows of two origins, two of them without advantage."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for at in range(count):
        origin = "demonstration" if at % 4 == 3 else "policy"
        advantage = 0.0 if at % 7 == 2 else float(torch.randn((), generator=draw))
        rows.append(row(at, draw, origin, advantage))
    return Batch(tuple(rows))


@vanishes_with("advantages")
def clipped(logprobs, old_logprobs, advantages, *, clip=0.2):
    ratio = (logprobs - old_logprobs).exp()
    adv = advantages[:, None]
    return -torch.minimum(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)


def imitate(logprobs):
    return -logprobs


def less_entropy(entropy, mean_logprobs):
    return 0.1 * entropy + 0.01 * mean_logprobs


def mixed_rule():
    """Three terms with three denominators over different rows."""
    return Sum(
        [
            Term("clip", Bound(clipped), where=Where({"origin": "policy"}), average="sequences"),
            Term("sft", Bound(imitate), where=Where({"origin": "demonstration"}), weight=0.5),
            Term(
                "entropy",
                Bound(less_entropy),
                where=Where({"origin": "demonstration"}),
                average="prompts",
                batch_average=True,
            ),
        ]
    )


@pytest.fixture
def batch():
    return mixed_batch()


@pytest.fixture
def rule():
    return mixed_rule()
