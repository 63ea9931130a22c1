"""Run by test_deepspeed_learner.py on 1 or 2 ranks: every ZeRO stage against the torch learner."""

import json
import sys
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import footprint_apart, held_bytes, mixed_batch, mixed_rule, moved_model, small_spec
from test_scalars import learned
from transformers import AutoModelForCausalLM

from didact.algorithms.rules import Bound, Sum, Term
from didact.core import world as worlds
from didact.core.backends import deepspeed_learner
from didact.core.backends.deepspeed_engine import blank
from didact.core.backends.deepspeed_learner import DeepSpeedLearner
from didact.core.backends.lora import LoraSpec, adapted
from didact.core.backends.models import load_model, load_tokenizer
from didact.core.backends.optim import OptimizerSpec
from didact.core.backends.torch_learner import TorchLearner
from didact.core.batch import Batch
from didact.core.errors import RunError
from didact.core.world import Alone

TWO = {  # eps far above the rounding of a gradient, or Adam turns that rounding into steps
    "main": OptimizerSpec(lr=1e-3, weight_decay=0.1, warmup=2, eps=1e-5),
    "sft": OptimizerSpec(lr=3e-3, betas=(0.8, 0.9), clip=0.1, eps=1e-5, skip_above=50.0),
}
TURNS = ["main", "sft", "main", "sft", "main"]
COLUMNS = frozenset({"ref_logprobs", "entropy"})


def batches(at):
    """Mixed ones, then one row for all ranks, then only idle rows."""
    whole = mixed_batch(at)
    if at == 3:
        return whole.take([3])
    if at == 4:
        rows = [r.with_signals(advantages=0.0) for r in whole.rows if r.origin == "policy"]
        return Batch(tuple(rows))
    return whole


def steps(learner, first=0, last=5):
    rule = learned(mixed_rule())
    return [learner.update(batches(at), rule, TURNS[at], at) for at in range(first, last)]


def difference(first, second):
    pairs = zip(first, second, strict=True)
    return max(float((a - b).abs().max()) for (_, a), (_, b) in pairs)


def kept(learner):
    return [(name, value.clone()) for name, value in learner.weights()]


def gathered(learner, whole):
    """The same weights in small buckets: how far from those of one, and the number of buckets."""
    with (
        mock.patch.object(deepspeed_learner, "BUCKET", 2000),
        mock.patch.object(learner, "_gathered", wraps=learner._gathered) as gathers,
    ):
        found = list(learner.weights())  # none is read before the last bucket has come
    assert [name for name, _ in found] == [name for name, _ in whole]
    return [difference(found, whole), gathers.call_count]


def apart(first, second):
    """Largest difference of two reports, relative to 1."""
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    return max(abs(first[k] - second[k]) / max(abs(first[k]), 1.0) for k in first)


def refused(learner):
    """A loss, then only a gradient, that is not finite: refused on every rank, nothing moves."""
    before = kept(learner)
    broken = [lambda logprobs: logprobs / 0, lambda logprobs: (logprobs - logprobs).abs().sqrt()]
    said = []
    for loss in broken:
        try:
            learner.update(mixed_batch(), Sum([Term("broken", Bound(loss))]), "main", 0)
        except RunError as error:
            said.append(str(error))
    return len(said) == 2 and difference(before, learner.weights()) == 0.0


def check(stage, world, folder, tokenizer):
    plain = TorchLearner(moved_model(), tokenizer, TWO, device="cpu")

    def made(offload=False):
        settings = {"stage": stage, "max_tokens": 60, "logits": 99 * 20, "offload": offload}
        settings["device"] = "cpu"
        return DeepSpeedLearner(moved_model(), tokenizer, TWO, 1.0, world, **settings)

    one = made()
    frozen = zip(
        plain.freeze(mixed_batch().rows, COLUMNS),
        one.freeze(mixed_batch().rows, COLUMNS),
        strict=True,
    )
    out = {
        "frozen": max(
            float((a.columns[n] - b.columns[n]).abs().max()) for a, b in frozen for n in COLUMNS
        )
    }
    reports = steps(one, 0, 2)
    out["refused"] = refused(one)
    state = one.state_dict()
    reports += steps(one, 2, 5)
    expected = steps(plain)
    out["reports"] = max(apart(a, b) for a, b in zip(expected, reports, strict=True))
    out["parameters"] = difference(plain.weights(), one.weights())
    torch.save(state, folder / f"state-{world.rank}.pt")
    two = made(offload=True)
    two.load_state_dict(torch.load(folder / f"state-{world.rank}.pt", weights_only=True))
    out["lent"] = []
    for at in range(2, 5):
        two.rest()
        out["lent"].append(sum(host.numel() for _, host in two.shelf.kept.values()))
        resting = (*two._resting(), *blank(two.engine, stage))
        left = [t for t in resting if t.untyped_storage().nbytes()]
        two.freeze(mixed_batch().rows, COLUMNS)
        steps(two, at, at + 1)
        out["lent"][-1] *= not left
    out["resumed"] = difference(one.weights(), two.weights())
    one.save(folder / f"stage-{stage}")
    weights = kept(one)
    out["gathered"] = gathered(one, weights)
    if world.rank == 0:
        saved = AutoModelForCausalLM.from_pretrained(folder / f"stage-{stage}")
        out["saved"] = difference(weights, saved.named_parameters())
    return out


def half(stage, world, tokenizer):
    """bfloat16: parameters of the engine follow float32 masters that move less than they can."""
    spec = small_spec().model_copy(update={"dtype": "bfloat16"})
    adam = {"main": OptimizerSpec(lr=1e-3)}
    plain = TorchLearner(load_model(spec, tokenizer), tokenizer, adam, device="cpu")
    learner, resumed = (
        DeepSpeedLearner(
            load_model(spec, tokenizer), tokenizer, adam, 1.0, world, stage=stage, device="cpu"
        )
        for _ in range(2)
    )
    for at in range(3):
        if at == 2:
            resumed.load_state_dict(learner.state_dict())
        for each in (plain, learner, *([resumed] if at == 2 else [])):
            each.update(mixed_batch(at), mixed_rule(), "main", at)
    resumes = difference(learner.weights(), resumed.weights()) == 0.0
    return {
        "apart": difference(plain.weights(), learner.weights()),
        "resumes": resumes,
        "rested": rested(stage, world, tokenizer, kept(learner)),
    }


def rested(stage, world, tokenizer, expected):
    """The same three updates with a rest after each: how far apart, and what was held at rest.

    Bytes on the device for each parameter of the model. Here the device is the host: what lies on
    the shelf is not counted.
    """
    spec = small_spec().model_copy(update={"dtype": "bfloat16"})
    before = held_bytes()
    settings = {"stage": stage, "offload": True, "device": "cpu"}
    model, adam = load_model(spec, tokenizer), {"main": OptimizerSpec(lr=1e-3)}
    size = sum(param.numel() for param in model.parameters())
    learner = DeepSpeedLearner(model, tokenizer, adam, 1.0, world, **settings)
    held = []
    for at in range(3):
        learner.update(mixed_batch(at), mixed_rule(), "main", at)
        learner.rest()
        hosts = sum(host.numel() for _, host in learner.shelf.kept.values())
        held.append((held_bytes() - before - hosts) / size)
        learner.freeze(mixed_batch(at).rows, COLUMNS)
    return {"apart": difference(expected, learner.weights()), "held": held}


def low(stage, world, tokenizer, folder):
    """Adapters: as in the torch learner, whole and bfloat16; the base rests, the state is small."""
    spec = LoraSpec(rank=4, alpha=8.0)
    adam = {"main": OptimizerSpec(lr=1e-3, eps=1e-5)}
    settings = {"stage": stage, "max_tokens": 60, "gradient_checkpointing": True, "device": "cpu"}

    def both(make):
        plain = TorchLearner(adapted(make(), spec, 0), tokenizer, adam, device="cpu")
        return plain, DeepSpeedLearner(
            adapted(make(), spec, 0), tokenizer, adam, 1.0, world, **settings
        )

    def trained(plain, learner, first=0, last=3):
        for at in range(first, last):
            for each in (plain, learner):
                each.update(mixed_batch(at), mixed_rule(), "main", at)
        return difference(plain.weights(), learner.weights())

    plain, one = both(moved_model)
    out = {"parameters": trained(plain, one, 0, 2)}
    state = one.state_dict()
    wanted = sum(param.numel() for param in plain.params)
    held = sum(part.numel() for part in state["partitions"])
    out["state"] = held / wanted * (world.size if stage else 1)
    out["parameters"] = max(out["parameters"], trained(plain, one, 2, 3))
    start, whole = dict(moved_model().named_parameters()), kept(one)
    out["gathered"] = gathered(one, whole)
    one.load_state_dict(state)
    trained(plain, one, 2, 3)
    out["resumed"] = difference(whole, one.weights())
    out["base"] = difference(
        [(name, value) for name, value in whole if "_proj" not in name],
        [(name, value) for name, value in start.items() if "_proj" not in name],
    )
    one.save(folder / f"low-{stage}")
    if world.rank == 0:
        saved = AutoModelForCausalLM.from_pretrained(folder / f"low-{stage}")
        out["saved"] = difference(whole, saved.named_parameters())
    if stage:
        half = small_spec().model_copy(update={"dtype": "bfloat16"})
        out["bfloat16"] = trained(*both(lambda: load_model(half, tokenizer)))
    return out


def short(stage, world, tokenizer):
    """A labelled fake: the last rank pretends to lack memory, before or after a forward pass.

    Returns the largest difference from a run with the budget that was found, and that budget; or,
    where no rank can try again, what was said.
    """

    def made(max_tokens):
        settings = {"stage": stage, "max_tokens": max_tokens, "device": "cpu"}
        return DeepSpeedLearner(moved_model(), tokenizer, TWO, 1.0, world, **settings)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    def lack(module, given, keywords, out):
        if given[0].numel() > 40 and world.rank == world.size - 1:
            if stage == 1 and out.last_hidden_state.requires_grad:
                out.last_hidden_state.register_hook(fail)
            elif stage != 1:
                fail()

    lacking = made(80)
    lacking.model.base_model.register_forward_hook(lack, with_kwargs=True)
    try:
        steps(lacking, 0, 2)
    except RunError as error:
        return str(error)
    enough = made(lacking.budget.tokens)
    steps(enough, 0, 2)
    return [difference(lacking.weights(), enough.weights()), lacking.budget.tokens]


def footprints(tokenizer):
    """Predicted against measured memory, held and at the peak, by ZeRO stage and kind."""
    half = [(stage, "bfloat16", stage > 1) for stage in (1, 2, 3)]
    kinds = [(1, "float32", False), (2, "float32", True), *half]

    def apart(stage, dtype, checkpointing):
        def made(model, settings):
            adam = {"main": OptimizerSpec()}
            settings |= {"stage": stage, "device": "cpu"}
            return DeepSpeedLearner(model, tokenizer, adam, 1.0, Alone(), **settings)

        return footprint_apart(made, stage, dtype, checkpointing)

    return {f"{stage} {dtype} {again}": apart(stage, dtype, again) for stage, dtype, again in kinds}


def main(folder):
    torch.set_num_threads(1)
    world = worlds.current()
    tokenizer = load_tokenizer(small_spec())
    found = {f"stage {stage}": check(stage, world, folder, tokenizer) for stage in (0, 1, 2, 3)}
    found["bfloat16"] = {str(stage): half(stage, world, tokenizer) for stage in (1, 2, 3)}
    stages = (0, 1, 2) if world.size > 1 else (3,)  # in 3, the other ranks would wait for ever
    found["short"] = {str(stage): short(stage, world, tokenizer) for stage in stages}
    found["low"] = {str(stage): low(stage, world, tokenizer, folder) for stage in (0, 1, 2, 3)}
    if world.size == 1:
        found["footprints"] = footprints(tokenizer)
    (folder / f"found-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    worlds.leave(0)
