"""Trajectories survive being plain state."""

import io
from fractions import Fraction

import pytest
import torch

from didact.core.codec import decode, encode
from didact.core.errors import RunError
from didact.core.types import Feedback, Problem, Prompt, Trajectory


def problem(name="p", **more) -> Problem:
    return Problem(
        name,
        [{"role": "user", "content": "1+1?"}],
        answer={"value": 2, "forms": ["2", "two"], "exact": True, "none": None},
        demonstrations=("so 2",),
        metadata={"level": 2, "share": 0.1},
        **more,
    )


def prompt(name="p") -> Prompt:
    return Prompt(name, torch.tensor([5, 6]), problem(name))


def trajectory(at: Prompt, text="2") -> Trajectory:
    return Trajectory(
        at,
        tokens=torch.tensor([7, 8, 0]),
        trainable=torch.tensor([True, False, True]),
        origin="policy",
        text=text,
        truncated=True,
        version=3,
        signals={"reward": 0.1, "reward/format": 1.0},
        columns={
            "behavior_logprobs": torch.tensor([-0.1, 0.0, -0.3]),
            "old_logprobs": torch.tensor([-0.1, 0.0, -0.3], dtype=torch.float64),
        },
        feedback=(Feedback("no", "rule"), Feedback("still no", "judge")),
    )


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True), len(file.getvalue())


def alike(one: Trajectory, other: Trajectory) -> bool:
    plain = ("origin", "text", "truncated", "version", "signals", "feedback")
    tensors = [(one.tokens, other.tokens), (one.trainable, other.trainable)]
    tensors += [(one.prompt.tokens, other.prompt.tokens)]
    tensors += [(one.columns[n], other.columns[n]) for n in one.columns]
    return (
        all(getattr(one, name) == getattr(other, name) for name in plain)
        and one.prompt.problem == other.prompt.problem
        and one.prompt.id == other.prompt.id
        and one.columns.keys() == other.columns.keys()
        and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors)
    )


def test_a_round_trip_through_a_safe_load_is_exact():
    bare = Trajectory(prompt("q"), torch.tensor([1]), torch.tensor([True]), "demonstration")
    rows = [trajectory(prompt()), bare]
    state, _ = through_file(encode(rows))
    assert all(alike(a, b) for a, b in zip(rows, decode(state), strict=True))
    assert decode(encode([])) == []


def test_a_shared_prompt_is_written_once_even_if_it_was_rendered_twice():
    rows = [trajectory(prompt()), trajectory(prompt("q")), trajectory(prompt(), "3")]
    state = encode(rows)
    assert len(state["prompts"]) == 2
    first, _, last = decode(state)
    assert first.prompt is last.prompt and alike(last, rows[2])


def test_two_prompts_of_one_id_stay_two():
    hinted = Prompt("p", torch.tensor([5, 6, 9]), problem())
    rows = decode(encode([trajectory(prompt()), trajectory(hinted), trajectory(prompt())]))
    assert [len(row.prompt.tokens) for row in rows] == [2, 3, 2]


def test_a_slice_is_saved_without_the_tensor_that_it_looks_into():
    big = torch.arange(1_000_000)
    row = Trajectory(prompt(), big[10:13], torch.ones(3, dtype=torch.bool), "policy")
    state, size = through_file(encode([row]))
    assert size < 20_000 and decode(state)[0].tokens.tolist() == [10, 11, 12]


def test_what_is_not_plain_data_is_named():
    odd = Problem("p", "q", answer=[Fraction(1, 2)])
    row = Trajectory(
        Prompt("p", torch.tensor([1]), odd), torch.tensor([1]), torch.tensor([True]), "x"
    )
    with pytest.raises(RunError, match="'p': its answer holds a Fraction"):
        encode([row])


def test_another_format_is_refused():
    with pytest.raises(RunError, match="format 9"):
        decode({**encode([]), "format": 9})
