"""Buffers: order, room, index, state; and the buffer trace of ReLIFT through a real phase."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.phase import Phase, Trigger
from didact.core.protocols import ReplayBuffer
from didact.core.where import Where
from didact.feedback.buffers import ByPrompt, Queue, Ring, Stack
from didact.feedback.drawn import Prioritized, Reservoir

GOLDEN = Path(__file__).parents[1] / "golden" / "hybrid"
TINY = json.loads((GOLDEN / "tiny_examples.json").read_text())["relift_buffer"]
LONG = json.loads((GOLDEN / "derived_schedules.json").read_text())["relift_buffer_trace"]
MAKERS = {
    "queue": lambda: Queue(6),
    "stack": lambda: Stack(6),
    "ring": lambda: Ring(6),
    "by_prompt": lambda: ByPrompt(2),
    "reservoir": lambda: Reservoir(6, seed=1),
    "proportional": lambda: Prioritized("reward", 6, seed=1),
    "greedy": lambda: Prioritized("reward", 6, draw="greedy"),
}


def tiny_trace():
    return [([f"q{at}" for at in s["new"]], s["sft"], s["left"]) for s in TINY]


def long_trace():
    return [
        ([f"s{s['step']}q{at}" for at in range(s["hard"])], s["sft_batch"], s["buffer_after"])
        for s in LONG["trace"]
    ]


def texts(rows):
    return [row.text for row in rows]


class Reads:
    """FAKE rule: reads nothing."""

    needs = frozenset()


def fed(tools, buffer, words, block=1):
    """The words, one trajectory each; a word's prompt is its first letter, its reward its place."""
    rows = [
        tools.said(word, tools.group(word[0]).prompt).with_signals(reward=float(at))
        for at, word in enumerate(words)
    ]
    for at in range(0, len(rows), block):
        buffer.add(rows[at : at + block])
    return buffer


@pytest.mark.parametrize("trace", [tiny_trace(), long_trace()], ids=["tiny", "long"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_stack_in_a_phase_gives_the_buffer_trace_of_relift(tools, trace, resumed):
    """M = 4: this step's hard questions in front, one supervised step on the first four."""
    size = LONG["M"]
    stack = Stack()
    for step, (hard, batch, left) in enumerate(trace):
        if resumed:  # a checkpoint between any two steps changes nothing
            state, stack = stack.state_dict(), Stack()
            stack.load_state_dict(state)
        phase = Phase(
            "sft", Where({"origin": "demonstration"}), stack, Trigger(size), Reads(), size, size
        )
        groups = [tools.group(name) for name in hard]
        groups = [
            g.add(
                [tools.said("wrong", g.prompt), tools.said(g.prompt.id, g.prompt, "demonstration")]
            )
            for g in groups
        ]
        run = tools.make_run(step=step)
        phase.offer([row for group in groups for row in group.leaving()], run)
        fired = [texts(b.rows) for b in phase.batches(run)]
        names = [[f"q{at}" if isinstance(at, int) else at for at in b] for b in [batch] if b]
        assert fired == names, f"step {step + 1}"
        waiting = texts(_peek(stack))
        assert waiting == [f"q{at}" if isinstance(at, int) else at for at in left]


def _peek(stack):
    copy = Stack()
    copy.load_state_dict(stack.state_dict())
    return copy.sample(len(copy))


def test_a_queue_gives_the_oldest_first_and_forgets_what_it_gave(tools):
    queue = fed(tools, Queue(), ["a", "b", "c"])
    assert texts(queue.sample(2)) == ["a", "b"] and len(queue) == 1
    assert texts(queue.sample(9)) == ["c"] and len(queue) == 0 and queue.sample(1) == []


def test_a_stack_puts_each_arrival_in_front_in_its_own_order(tools):
    stack = fed(tools, Stack(), ["a", "b", "c", "d", "e"], block=2)
    assert texts(stack.sample(4)) == ["e", "c", "d", "a"]
    assert texts(stack.sample(4)) == ["b"]


def test_a_ring_keeps_what_it_gives_newest_first(tools):
    ring = fed(tools, Ring(3), ["a", "b", "c", "d"])
    assert texts(ring.sample(2)) == ["d", "c"] and len(ring) == 3
    assert texts(ring.sample(9)) == ["d", "c", "b"]


@pytest.mark.parametrize("kind, left", [(Queue, "cde"), (Stack, "edc"), (Ring, "edc")])
def test_a_full_buffer_drops_the_oldest_and_counts_them(tools, kind, left):
    buffer = fed(tools, kind(3), "abcde")
    assert "".join(texts(buffer.sample(9))) == left and buffer.dropped == 2


def test_by_prompt_keeps_so_many_of_each(tools):
    words = ["a1", "b1", "a2", "a3", "b2", "c1"]
    kept = fed(tools, ByPrompt(2), words)
    assert texts(kept.matching(tools.group("a").prompt)) == ["a2", "a3"]
    assert texts(kept.sample(9)) == ["c1", "b2", "a3", "a2", "b1"]
    assert (len(kept), kept.dropped) == (5, 1)
    best = ByPrompt(2, drop="lowest_reward")
    best.add(
        tools.said(text).with_signals(reward=reward)
        for text, reward in [("x", 1.0), ("y", 0.0), ("z", 0.0), ("w", 1.0)]
    )
    assert texts(best.matching(tools.group().prompt)) == ["x", "w"]


@pytest.mark.parametrize("name", MAKERS)
def test_matching_finds_the_prompts_own_oldest_first_after_any_traffic(tools, name):
    buffer = fed(tools, MAKERS[name](), ["a1", "b1", "a2", "b2", "a3"], block=2)
    buffer.sample(2)
    held = {m.text for p in "abc" for m in buffer.matching(tools.group(p).prompt)}
    assert len(held) == len(buffer) > 0
    for prompt in "ab":
        mine = texts(buffer.matching(tools.group(prompt).prompt))
        assert mine == sorted(mine) and all(text[0] == prompt for text in mine)
    assert buffer.matching(tools.group("zz").prompt) == []


@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_buffer_goes_on_as_if_never_interrupted(tools, name, tmp_path):
    words = ["a1", "b1", "a2", "b2", "a3", "b3", "c1", "c2"]
    one = fed(tools, MAKERS[name](), words, block=3)
    one.sample(2)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two = MAKERS[name]()
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for buffer in (one, two):
        fed(tools, buffer, ["a9", "b9", "d9"], block=2)
    assert texts(one.sample(3)) == texts(two.sample(3))
    for prompt in "abcd":
        mine = tools.group(prompt).prompt
        assert texts(one.matching(mine)) == texts(two.matching(mine))
    assert texts(one.sample(99)) == texts(two.sample(99))
    assert (len(one), one.dropped) == (len(two), two.dropped)


def test_a_reservoir_keeps_a_uniform_sample_of_all_arrivals(tools):
    rows = [tools.said(str(at)) for at in range(20)]
    kept = Counter()
    for seed in range(2000):
        reservoir = Reservoir(5, seed=seed)
        reservoir.add(rows)
        assert len(reservoir) == 5 and reservoir.dropped == 15
        kept.update(texts(reservoir.sample(5)))
    # each stays with probability 1/4: 500 +- 19
    assert all(abs(count - 500) < 80 for count in kept.values()) and len(kept) == 20


def test_proportional_draws_follow_the_priorities(tools):
    buffer = Prioritized("weight", alpha=1.0, floor=0.0)
    buffer.add(tools.said(str(w)).with_signals(weight=float(w)) for w in (-1, 2, 5))
    firsts = Counter(buffer.sample(1)[0].text for _ in range(4000))
    for text, share in (("-1", 1 / 8), ("2", 2 / 8), ("5", 5 / 8)):
        assert abs(firsts[text] / 4000 - share) < 0.03  # standard error 0.008
    assert sorted(texts(buffer.sample(3))) == ["-1", "2", "5"] and len(buffer) == 3


def test_priorities_of_almost_nothing_are_still_drawn_at_random(tools):
    buffer = Prioritized("weight")
    buffer.add(tools.said(str(at)).with_signals(weight=0.0) for at in range(4))
    assert len({buffer.sample(1)[0].text for _ in range(50)}) == 4


def test_a_priority_of_nothing_is_drawn_last(tools):
    buffer = Prioritized("reward", floor=0.0)
    fed(tools, buffer, "abc")
    assert [sorted(texts(buffer.sample(2))) for _ in range(20)] == [["b", "c"]] * 20
    assert sorted(texts(buffer.sample(3))) == ["a", "b", "c"]


def test_greedy_takes_the_highest_and_room_is_made_by_the_lowest(tools):
    buffer = fed(tools, Prioritized("reward", 3, draw="greedy"), "abcde")
    assert texts(buffer.sample(2)) == ["e", "d"] and buffer.dropped == 2
    with pytest.raises(RecipeError, match="has no 'reward'"):
        buffer.add([tools.said("x")])
    assert len(buffer) == 3


def test_a_buffer_without_room_is_refused():
    with pytest.raises(RecipeError, match="at least one"):
        Queue(0)


@pytest.mark.parametrize("name", MAKERS)
def test_they_are_replay_buffers(name):
    buffer: ReplayBuffer = MAKERS[name]()
    assert len(buffer) == 0 and buffer.sample(3) == []


def test_looking_up_a_prompt_does_not_walk_the_buffer(tools):
    ring = Ring(20_000)
    ring.add(tools.said("x", tools.group(f"p{at}").prompt) for at in range(20_000))
    prompt = tools.group("p10000").prompt
    began = time.perf_counter()
    for _ in range(20_000):
        ring.matching(prompt)
    assert time.perf_counter() - began < 2  # a walk would take minutes
