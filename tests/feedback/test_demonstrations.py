"""Expert responses, whole and as prefixes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from didact.core.errors import RecipeError
from didact.core.protocols import Failed
from didact.core.schedule import Schedule
from didact.core.types import Group, Problem, Prompt
from didact.feedback.demonstrations import DemonstrationSource, PrefixSource

GOLDEN = Path(__file__).parents[1] / "golden" / "hybrid" / "relift_replace_response.json"


def accepts(*good):
    return lambda rows: [Failed("odd") if r.text == "odd" else float(r.text in good) for r in rows]


def test_an_expert_response_is_fully_trainable_and_has_no_behaviour_logprobs(tools):
    run = tools.make_run()
    groups = [tools.group("a", demonstrations=("one", "two")), tools.group("b")]
    (shown, none) = DemonstrationSource().extend(groups, run)
    (member,) = shown
    assert member.tokens.tolist() == [*map(ord, "one"), tools.EOS]
    assert member.trainable.tolist() == [True] * 4
    assert (member.text, member.origin, member.version) == ("one", "demonstration", None)
    assert not member.columns and not member.signals and not member.truncated
    assert none == []
    assert run.metrics["demonstrations/missing"] == 1
    assert run.metrics["demonstrations/offered"] == 1


def test_overlong_responses_are_skipped_and_counted_unless_told_to_cut(tools):
    groups = [tools.group(demonstrations=("longer", "abc"))]
    run = tools.make_run()
    (row,) = DemonstrationSource(max_tokens=4).extend(groups, run)
    assert [m.text for m in row] == ["abc"] and run.metrics["demonstrations/overlong"] == 1
    run = tools.make_run()
    (row,) = DemonstrationSource(max_tokens=4, overlong="cut").extend(groups, run)
    assert [m.tokens.tolist() for m in row] == [[*map(ord, "lon"), tools.EOS]]
    assert row[0].truncated and run.metrics["demonstrations/overlong"] == 1


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"])
def test_a_cut_response_is_the_one_of_relift(tools, case):
    """Rows 0 and 1 of the release. Its row 2, a missing demonstration, would train a lone
    end-of-sequence token; here it yields nothing."""
    pad, eos, width = case["pad_token_id"], case["eos_token_id"], 6
    for at, target in enumerate(case["inputs"]["tgt_input_ids"]):
        expert = [token for token in target if token != pad]
        shown = ("".join(map(chr, expert)),) if expert else ()
        group = Group(Prompt("p", torch.tensor([5, 6, 7]), Problem("p", "q", demonstrations=shown)))
        source = DemonstrationSource(max_tokens=width, overlong="cut")
        (row,) = source.extend([group], tools.make_run(end=eos))
        if not expert:
            assert row == []
            continue
        length = sum(case["outputs"]["attention_mask"][at]) - sum(
            case["inputs"]["attention_mask"][at][:4]
        )
        assert row[0].tokens.tolist() == case["outputs"]["responses"][at][:length]


def test_a_share_of_the_prompts_is_offered_any_and_always_the_same_ones(tools):
    groups = [tools.group(f"{at:03}", demonstrations=("one",)) for at in range(400)]

    def offered(share, step, seed=0):
        rows = DemonstrationSource(share=share).extend(
            groups, replace(tools.make_run(step=step), seed=seed)
        )
        return [bool(row) for row in rows]

    some = offered(0.2, step=3)
    assert 50 < sum(some) < 110
    assert some == offered(0.2, step=7) != offered(0.2, step=3, seed=1)
    assert all(more or not one for one, more in zip(some, offered(0.6, step=3), strict=True))
    assert sum(offered(0.0, step=3)) == 0 and sum(offered(1.0, step=3)) == 400
    with pytest.raises(RecipeError, match="'share' is from 0 to 1, not 2"):
        DemonstrationSource(share=2)


def test_more_than_one_can_be_shown_and_chosen_by_seed(tools):
    groups = [tools.group(demonstrations=tuple("abcdefgh"))]
    (first,) = DemonstrationSource(n=3).extend(groups, tools.make_run())
    assert [m.text for m in first] == ["a", "b", "c"]
    picks = {
        step: [
            m.text
            for m in DemonstrationSource(n=3, pick="random").extend(
                groups, tools.make_run(step=step)
            )[0]
        ]
        for step in (0, 0, 1, 2)
    }
    assert all(len(set(pick)) == 3 for pick in picks.values())
    assert picks[0] != picks[1] or picks[1] != picks[2]
    (again,) = DemonstrationSource(n=3, pick="random").extend(groups, tools.make_run(step=0))
    assert [m.text for m in again] == picks[0]


def test_verified_demonstrations_are_those_that_the_reward_accepts(tools):
    run = tools.make_run(world=tools.Stripes(2))
    groups = [
        tools.group("a", demonstrations=("bad", "good", "fine")),
        tools.group("b", demonstrations=("odd", "bad")),
    ]
    rows = DemonstrationSource(n=1, verify=accepts("good", "fine")).extend(groups, run)
    assert [[m.text for m in row] for row in rows] == [["good"], []]
    assert run.metrics["demonstrations/rejected"] == 2
    assert run.metrics["demonstrations/unverified"] == 1


def test_a_prefix_is_completed_by_the_policy_and_marked(tools):
    run = tools.make_run(lambda context, seed: f"[{context}]", version=4)
    groups = [tools.group("a", "q", demonstrations=("abcdefghi",)), tools.group("b")]
    source = PrefixSource(low=0.5, high=0.5)
    (shown, none) = source.extend(groups, run)
    (member,) = shown
    assert member.text == "abcde[qabcde]"  # floor(0.5 * 10), the end-of-sequence counted
    assert member.columns["prefix"].tolist() == [1.0] * 5 + [0.0] * 9
    assert member.trainable.all() and "behavior_logprobs" not in member.columns
    assert (member.origin, member.version) == ("prefix", 4)
    assert none == [] and run.metrics["demonstrations/missing"] == 1


def test_masked_prefixes_know_what_the_policy_did(tools):
    run = tools.make_run(lambda context, seed: "x")
    source = PrefixSource(low=0.5, high=0.5, trainable=False)
    ((member,),) = source.extend([tools.group(demonstrations=("abc",))], run)
    assert member.trainable.tolist() == [False, False, True, True]
    assert member.columns["behavior_logprobs"].tolist() == pytest.approx([0, 0, -0.1, -0.2])


def test_prefix_shares_are_uniform_between_low_and_high_and_never_take_the_last_token(tools):
    run = tools.make_run(lambda context, seed: "", max_tokens=2000)
    groups = [tools.group(str(at), demonstrations=("x" * 999,)) for at in range(300)]
    rows = PrefixSource(low=0.2, high=0.6).extend(groups, run)
    lengths = [int(m.columns["prefix"].sum()) for row in rows for m in row]
    assert 200 <= min(lengths) < 220 and 580 < max(lengths) <= 600
    assert abs(sum(lengths) / 300 - 400) < 20  # standard error 6.7
    ((whole,),) = PrefixSource(low=1.0, high=1.0).extend(
        [tools.group(demonstrations=("abc",))], run
    )
    assert whole.columns["prefix"].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_prefix_of_whole_parts_ends_where_uft_separates_its_hints(tools):
    """Seven tokens in five parts; the last token is the policy's all the same."""
    uft = json.loads(GOLDEN.with_name("derived_schedules.json").read_text())["uft"]
    wanted = [min(end, 6) for end in uft["separation_for_len7"]]
    run = tools.make_run(lambda context, seed: "x")
    for taken, length in enumerate(wanted):
        source = PrefixSource(low=taken / 5, high=taken / 5, parts=5)
        ((member,),) = source.extend([tools.group(demonstrations=("abcdef",))], run)
        assert int(member.columns["prefix"].sum()) == length


def test_parts_of_a_hint_are_taken_each_by_its_own_chance_and_a_group_shares_them(tools):
    run = tools.make_run(lambda context, seed: "x", max_tokens=2000)
    groups = [tools.group(str(at), demonstrations=("x" * 999,)) for at in range(200)]
    source = PrefixSource(n=3, low=0.3, high=0.3, parts=5, parts_drawn="binomial", shared=True)
    rows = source.extend(groups, run)
    lengths = [{int(member.columns["prefix"].sum()) for member in row} for row in rows]
    assert all(len(length) == 1 for length in lengths)
    assert all(member.signals["prefix_id"] == 1.0 for row in rows for member in row)
    taken = [min(length) / 200 for length in lengths]
    assert {0.0, 1.0, 2.0, 3.0} <= set(taken) <= {0.0, 1.0, 2.0, 3.0, 4.0, 999 / 200}
    assert abs(sum(taken) / 200 - 1.5) < 0.3  # standard error 0.07


def test_prefix_and_completion_share_the_length_limit(tools):
    run = tools.make_run(lambda context, seed: "y" * 50)
    source = PrefixSource(low=0.9, high=0.9, max_tokens=12)
    rows = source.extend(
        [
            tools.group("a", demonstrations=("abcdefghi",)),
            tools.group("b", demonstrations=("z" * 40,)),
        ],
        run,
    )
    assert [len(m.tokens) for row in rows for m in row] == [12, 12]
    assert [int(m.columns["prefix"].sum()) for row in rows for m in row] == [9, 11]
    assert all(m.truncated for row in rows for m in row)


def test_the_published_schedule_of_the_lower_end_is_a_cosine():
    """Prefix-RFT: low(t) = 0.95 (1 + cos(pi t / T)) / 2, at T = 500."""
    low = Schedule(cosine=(0.95, 0.0), over=500)
    assert low(250) == pytest.approx(0.475) and low(500) == pytest.approx(0.0, abs=1e-12)
    assert low(100) == pytest.approx(0.475 * (1 + math.cos(math.pi / 5)))


def test_shares_that_are_none_are_refused():
    with pytest.raises(RecipeError, match="low <= high"):
        PrefixSource(low=0.7, high=0.3)
