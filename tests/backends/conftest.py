"""Small models, mixed batches and rules for the tests of the backends."""

import gc

import pytest
import torch
from torch import nn

from didact.algorithms.rules import Bound, Sum, Term, vanishes_with
from didact.core.backends import footprint
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


def held_bytes():
    """Of all tensors that are alive, each storage once."""
    gc.collect()
    alive = [held for held in gc.get_objects() if type(held) in (torch.Tensor, nn.Parameter)]
    storages = {held.untyped_storage()._cdata: held.untyped_storage() for held in alive}
    return sum(storage.nbytes() for storage in storages.values() if storage.device.type == "cpu")


def peak_bytes(call):
    """The most that is allocated at once while `call` runs, beside what was before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        call()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def footprint_apart(make, stage, dtype, checkpointing):
    """How far the predicted peak of an update is from the measured one, as a share of it.

    Args:
        make: a learner of a model and settings.
    """
    tokens = 512
    config = quickstart_model() | {
        "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 32,
        "num_key_value_heads": 4, "intermediate_size": 688, "vocab_size": 1000,
    }  # fmt: skip
    spec = ModelSpec(config=config, tokenizer="characters", dtype=dtype)
    before = held_bytes()
    model = load_model(spec, load_tokenizer(spec))
    shape = footprint.Shape.of(model, model.config)
    settings = {"max_tokens": tokens, "logits": 256 * 1000, "gradient_checkpointing": checkpointing}
    learner = make(model, settings)
    draw = torch.Generator().manual_seed(0)
    batch = Batch(tuple(row(1, draw, size=60) for _ in range(14)))
    rule = Sum([Term("sft", Bound(imitate))])
    learner.update(batch, rule, "main", 0)
    held = held_bytes() - before
    measured = held + peak_bytes(lambda: learner.update(batch, rule, "main", 1))
    how = footprint.Training(
        width=2 if dtype == "bfloat16" else 4, stage=stage, tokens=tokens,
        responses=tokens, logits=256 * 1000, checkpointing=checkpointing,
    )  # fmt: skip
    resting = footprint.held(shape, how)
    peak = footprint.total(resting) + footprint.total(footprint.learning(shape, how))
    return [footprint.total(resting) / held - 1, peak / measured - 1]


@pytest.fixture
def apart():
    return footprint_apart


@pytest.fixture
def peak_of():
    return peak_bytes


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
