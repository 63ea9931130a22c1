"""The policy as a source: seeds, stripes, columns, and episodes with an environment."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from didact.core.errors import PluginError, RecipeError
from didact.core.schedule import Schedule, Varying, now
from didact.core.seeds import seed_of
from didact.core.types import Group, Request, Sampling
from didact.feedback.policy import PolicySource, ask

GOLDEN = Path(__file__).parents[1] / "golden" / "replay_curriculum"


@dataclass(frozen=True)
class Echo:
    """FAKE environment: replies with a fixed text until so many turns."""

    text: str = "!"
    turns: int = 100

    def reply(self, prompt, response, turn):
        return self.text if turn + 1 < self.turns else None


def texts(rows):
    return [[m.text for m in row] for row in rows]


def test_every_prompt_gets_n_samples_with_the_samplers_logprobs_and_version(tools):
    run = tools.make_run(lambda context, seed: context + "!", version=3)
    rows = PolicySource(n=2).extend([tools.group("a", "x"), tools.group("b", "yy")], run)
    assert texts(rows) == [["x!", "x!"], ["yy!", "yy!"]]
    member = rows[1][0]
    assert member.tokens.tolist() == [ord("y"), ord("y"), ord("!"), tools.EOS]
    assert member.columns["behavior_logprobs"].tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4])
    assert member.trainable.all() and member.trainable.dtype == torch.bool
    assert (member.origin, member.version, member.truncated) == ("policy", 3, False)
    assert run.metrics["tokens/generated"] == 3 + 3 + 4 + 4


def test_seeds_are_those_of_run_step_prompt_and_sample(tools):
    run = tools.make_run(step=5)
    PolicySource(n=2).extend([tools.group("a"), tools.group("b")], run)
    requests, _ = run.generators["policy"].calls[0]
    wanted = [seed_of(7, 5, name, k) for name in "ab" for k in range(2)]
    assert [request.seed for request in requests] == wanted


def test_the_same_step_samples_the_same_whatever_stands_beside_it(tools):
    alone = PolicySource(n=3).extend([tools.group("b")], tools.make_run())
    beside = PolicySource(n=3).extend([tools.group("a"), tools.group("b")], tools.make_run())
    assert texts(alone)[0] == texts(beside)[1]
    later = PolicySource(n=3).extend([tools.group("b")], tools.make_run(step=1))
    assert not set(texts(later)[0]) & set(texts(alone)[0])


def test_two_groups_of_one_prompt_and_a_second_rollout_get_other_samples(tools):
    run = tools.make_run()
    twice = PolicySource(n=4).extend([tools.group("a"), tools.group("a")], run)
    again = PolicySource(n=4).extend([tools.group("a")], run)
    assert len({text for row in [*twice, *again] for text in map(str, [m.text for m in row])}) == 12


def test_chunks_and_a_greedy_answer_before_change_no_sample(tools):
    groups = [tools.group(name) for name in "abc"]
    whole = PolicySource(n=2).extend(groups, tools.make_run())
    run = tools.make_run()
    PolicySource(n=1, temperature=0.0).extend(groups, run)
    parts = [PolicySource(n=2).extend([group], run)[0] for group in groups]
    assert texts(parts) == texts(whole)


def test_the_next_step_and_a_copy_of_the_run_count_afresh(tools):
    run = tools.make_run()
    first = PolicySource(n=2).extend([tools.group()], run)
    assert texts(PolicySource(n=2).extend([tools.group()], replace(run))) == texts(first)
    run.step = 1
    later = PolicySource(n=2).extend([tools.group()], run)
    assert texts(later) == texts(PolicySource(n=2).extend([tools.group()], tools.make_run(step=1)))
    assert {step for step, _, _ in run.drawn} == {1}


def test_any_number_of_ranks_gives_the_same_trajectories(tools):
    groups = [tools.group(name) for name in "abc"]
    source = PolicySource(n=3, environment=Echo(turns=3))
    one = source.extend(groups, tools.make_run())
    for size in (2, 4):
        world = tools.Stripes(size)
        many = source.extend(groups, tools.make_run(world=world))
        assert [[m.tokens.tolist() for m in row] for row in many] == [
            [m.tokens.tolist() for m in row] for row in one
        ]
        assert max(world.stripes) == -(-9 // size)  # each rank generates its stripe only


def test_what_the_source_sets_overrides_the_runs_sampling_and_zero_counts(tools):
    run = tools.make_run(max_tokens=64)
    PolicySource(n=1, temperature=0.0, top_k=5).extend([tools.group()], run)
    _, sampling = run.generators["policy"].calls[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 1.0, 5)
    assert sampling.max_tokens == 64


def test_a_response_without_end_is_truncated(tools):
    run = tools.make_run(lambda context, seed: "abcdef")
    ((member,),) = PolicySource(n=1, max_tokens=4).extend([tools.group()], run)
    assert member.truncated and member.text == "abcd"


def test_entropy_is_of_one_model_s_draws_and_not_of_greedy_answers(tools):
    run = tools.make_run(lambda context, seed: context)
    run.generators["teacher"] = tools.Scripted(lambda context, seed: context * 5)
    groups = [tools.group("a", "x")]
    for settings in ({}, {"temperature": 0.0}, {"model": "teacher"}, {"n": 2}):
        PolicySource(**{"n": 1, **settings}).extend(groups, run)
    assert run.metrics["entropy/policy"] == pytest.approx((0.1 + 0.2) / 2)
    assert run.metrics["tokens/sampled/policy"] == 6  # "x" and the end, three times
    assert run.metrics["entropy/teacher"] == pytest.approx(sum(range(1, 7)) / 60)
    assert run.metrics["tokens/generated"] == 6 + 2 + 6


def test_replies_are_context_without_loss_and_the_last_response_is_the_text(tools):
    run = tools.make_run(lambda context, seed: str(len(context)))
    source = PolicySource(n=1, environment=Echo("no "), turns=3)
    ((member,),) = source.extend([tools.group(question="q")], run)
    # context "q" -> "1", end; then q1<eos>"no " is 5 characters without the end -> "5"; then 9
    assert tools.Letters().text(member.tokens) == "1no 5no 9"
    assert member.text == "9" and member.signals["turns"] == 3.0
    replies = [False, False, True, True, True, False, False, True, True, True, False, False]
    assert (~member.trainable).tolist() == replies
    assert member.columns["behavior_logprobs"].tolist() == pytest.approx(
        [-0.1, -0.2, 0, 0, 0, -0.1, -0.2, 0, 0, 0, -0.1, -0.2]
    )
    assert run.metrics["tokens/generated"] == 6
    contexts = [call[0][0].context for call in run.generators["policy"].calls]
    assert contexts[1].tolist() == [ord("q"), ord("1"), tools.EOS, *map(ord, "no ")]
    ((whole,),) = replace(source, read="all").extend([tools.group(question="q")], run)
    assert whole.text == "1no 5no 9"


def test_turns_of_an_episode_have_seeds_of_their_own(tools):
    run = tools.make_run()
    PolicySource(n=1, environment=Echo(), turns=3).extend([tools.group()], run)
    seeds = [requests[0].seed for requests, _ in run.generators["policy"].calls]
    assert len(set(seeds)) == 3


def test_an_episode_never_exceeds_the_length_limit(tools):
    def speak(context, seed):
        return "a" * (1 + seed % 9)

    source = PolicySource(n=16, max_tokens=20, environment=Echo("wrong"), turn_tokens=6)
    (row,) = source.extend([tools.group()], tools.make_run(speak))
    assert all(len(m.tokens) <= 20 for m in row)
    assert all(m.truncated for m in row)  # this environment never stops by itself
    assert len({len(m.tokens) for m in row}) > 1
    assert all(len(m.columns["behavior_logprobs"]) == len(m.tokens) for m in row)
    assert all(len(m.trainable) == len(m.tokens) for m in row)


def test_no_turn_asks_for_more_than_its_own_episode_has_room_for(tools):
    run = tools.make_run(lambda context, seed: "a" * (1 + seed % 9))
    group = tools.group()
    PolicySource(n=16, max_tokens=20, environment=Echo("wrong")).extend([group], run)
    most = len(group.prompt.tokens) + 20
    later = run.generators["policy"].calls[1:]
    rooms = [[r.limit(s) + len(r.context) for r in requests] for requests, s in later]
    assert rooms and all(room == most for turn in rooms for room in turn)


def test_a_generator_is_asked_for_the_most_that_a_request_wants_and_for_no_request_of_none(tools):
    run, context = tools.make_run(), tools.group().prompt.tokens
    ask(run, "policy", [Request(context, 1, 3), Request(context, 2, 5)], Sampling(max_tokens=20))
    ((_, sampling),) = run.generators["policy"].calls
    assert sampling == Sampling(max_tokens=5)
    for none in (0, -2):
        with pytest.raises(PluginError, match=f"asks for {none} tokens"):
            ask(run, "policy", [Request(context, 1, none)], Sampling(max_tokens=20))


def test_what_a_generator_says_beyond_a_requests_own_limit_is_cut(tools):
    run = tools.make_run(lambda context, seed: "abcdef")
    context = tools.group().prompt.tokens
    requests = [Request(context, 1), Request(context, 2, 3), Request(context, 3, 99)]
    whole, cut, loose = ask(run, "policy", requests, Sampling(max_tokens=20))
    assert [len(s.tokens) for s in (whole, cut, loose)] == [7, 3, 7]
    assert [s.truncated for s in (whole, cut, loose)] == [False, True, False]
    assert torch.equal(cut.logprobs, whole.logprobs[:3])


@pytest.mark.parametrize(("turns", "truncated"), [(9, True), (2, False)])
def test_an_episode_that_fills_its_room_is_whole_only_if_the_environment_is_done(
    tools, turns, truncated
):
    source = PolicySource(n=1, max_tokens=15, environment=Echo("wrong", turns))
    ((member,),) = source.extend([tools.group()], tools.make_run(lambda context, seed: "aaaa"))
    assert len(member.tokens) == 15 and member.truncated == truncated


def test_a_truncated_turn_ends_the_episode(tools):
    run = tools.make_run(lambda context, seed: "abcdef")
    source = PolicySource(n=1, environment=Echo(), turn_tokens=3)
    ((member,),) = source.extend([tools.group()], run)
    assert member.truncated and member.text == "abc" and len(run.generators["policy"].calls) == 1


def test_an_episode_keeps_the_oldest_version_that_spoke_in_it(tools):
    run = tools.make_run()
    generator = run.generators["policy"]
    generator.speak = lambda context, seed: generator.sync(None) or "a"
    ((member,),) = PolicySource(n=1, environment=Echo(), turns=3).extend([tools.group()], run)
    assert generator.version == 3 and member.version == 1


def test_the_horizon_follows_a_schedule_as_scaling_inter_does(tools):
    case = json.loads((GOLDEN / "scaling_inter.json").read_text())["cases"][0]
    every, rounds = case["steps_scaling_inter"], case["rounds"]
    horizon = Schedule(steps={at * every: float(turns) for at, turns in enumerate(rounds)})
    source = Varying(PolicySource, {"n": 1, "environment": Echo(), "turns": horizon})
    for call in case["trace"]:  # the release counts from 1 and trains with what it had before
        run = tools.make_run(lambda context, seed: "a", step=call["call"], max_tokens=200)
        ((member,),) = now(source, run.step).extend([tools.group()], run)
        assert member.signals["turns"] == call["rounds"], call


def test_other_models_speak_under_their_own_name_and_unknown_ones_are_named(tools):
    generators = {"policy": tools.Scripted(tools.noise), "teacher": tools.Scripted(tools.noise)}
    run = tools.make_run(generators=generators)
    ((member,),) = PolicySource(n=1, model="teacher").extend([tools.group()], run)
    assert member.origin == "teacher" and not run.generators["policy"].calls
    with pytest.raises(RecipeError, match="Did you mean 'teacher'"):
        PolicySource(model="techer").extend([tools.group()], run)


def test_no_groups_ask_nobody(tools):
    run = tools.make_run()
    assert PolicySource().extend([], run) == [] and not run.generators["policy"].calls


def test_it_declares_what_it_adds(tools):
    assert PolicySource().adds == {"behavior_logprobs"}
    assert PolicySource(environment=Echo()).adds == {"behavior_logprobs", "turns"}
    assert isinstance(tools.group(), Group)


def test_what_a_source_says_may_have_a_name_of_its_own(tools):
    run = tools.make_run()
    ((greedy,),) = PolicySource(n=1, temperature=0.0, origin="greedy").extend([tools.group()], run)
    ((sampled,),) = PolicySource(n=1).extend([tools.group()], run)
    assert (greedy.origin, sampled.origin) == ("greedy", "policy")
    assert texts([[sampled]]) == texts(PolicySource(n=1).extend([tools.group()], tools.make_run()))


def test_the_time_of_the_environment_is_measured_if_asked_for(tools):
    run = tools.make_run(lambda context, seed: "x")
    plain = PolicySource(n=1, environment=Echo(turns=3))
    timed = replace(plain, timed=True)
    assert "duration" not in plain.extend([tools.group()], run)[0][0].signals
    ((member,),) = timed.extend([tools.group()], run)
    assert member.signals["duration"] > 0 and member.signals["turns"] == 3
    assert timed.adds == plain.adds | {"duration"}
