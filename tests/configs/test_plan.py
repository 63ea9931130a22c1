"""`didact plan`: counts what a step makes, predicts memory, decides what is "auto"."""

import pytest

from didact.configs.assemble import assemble
from didact.configs.counts import most, of_recipe
from didact.configs.document import read
from didact.configs.load import check
from didact.configs.memory import chosen, loaded, predicted, shape_of
from didact.configs.plan import plan
from didact.core.backends import engines, footprint
from didact.core.errors import RecipeError
from didact.core.rounds import Repeat
from didact.core.stages import Fill, Rollout
from didact.core.where import Where
from didact.feedback.games import RepeatedGame
from didact.feedback.partial import Continue
from didact.plugins.manager import load

MODEL = (
    "base=null",
    "models.policy={tokenizer: characters, dtype: bfloat16, config: {model_type: qwen3, "
    "hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, "
    "head_dim: 16, intermediate_size: 128, vocab_size: 200, tie_word_embeddings: true}}",
)


class Source:
    def __init__(self, n):
        self.n = n


def opened(*overrides):
    document = read("grpo", [*MODEL, *overrides])
    recipe = check(document, load())
    parts = assemble(recipe, load(), document)
    named = {name: spec.following(recipe.models["policy"]) for name, spec in recipe.models.items()}
    specs = loaded(recipe, {"ref": named["policy"], **named}, parts)
    return recipe, parts, specs


def memory(*overrides):
    recipe, parts, specs = opened(*overrides)
    shapes = {name: shape_of(spec) for name, spec in specs.items()}
    return predicted(recipe, shapes, specs, of_recipe(recipe, parts).rows)


def test_rounds_and_fills_are_counted_and_what_signals_decide_is_named():
    stages = [Rollout(Source(4)), Repeat([Rollout(Source(2))], Where(), rounds=3)]
    assert (most(stages, 8).members, most(stages, 8).rows, most(stages, None).rows) == (
        10,
        80,
        None,
    )
    filled = most([Fill(5, [Rollout(Source(4), times="allotted")], rounds=2)], 8)
    assert filled.rows == 20
    assert filled.unknown == [
        "a rollout asks 'allotted' times: counted as once",
        "fill draws up to 2 times as many prompts",
    ]


def test_both_players_of_a_game_are_counted_and_what_waits_is_named():
    assert most([Rollout(RepeatedGame(n=4))], 16).rows == 128
    held = most([Rollout(Source(8)), Continue("unfinished", segment=4)], 16)
    assert held.unknown == ["groups that 'continue' held back in earlier steps"]


def test_the_moments_of_a_step_add_up_what_lies_in_memory():
    found = memory()
    policy, ref = found.held["policy"], found.held["ref"]
    assert policy["weights"] == ref["weights"] and set(ref) == {"weights"}
    held = footprint.total(policy) + footprint.total(ref)
    assert set(found.generating) == {"generator weights", "key-value cache", "temporaries"}
    own = policy["weights"] + found.generating["key-value cache"] + found.generating["temporaries"]
    assert found.moments["generation"] == held + own
    learning = footprint.total(found.learning["policy"])
    assert found.moments["update of policy"] == held + policy["weights"] + learning
    assert found.peak == max(found.moments.values())


def test_what_drawing_a_token_takes_grows_with_rows_vocabulary_and_truncation():
    """128 rows of 200 logits, or as many as the cache has room for; float32 or bfloat16."""

    def drawing(*overrides):
        wide = (MODEL[0], MODEL[1].replace("vocab_size: 200", "vocab_size: 32000"))
        return memory(*wide, *overrides).generating["temporaries"]

    assert drawing() == (12 + 2) * 128 * 32000
    assert drawing("sampling.top_p=0.9", "evaluation.kl=false") == (28 + 2) * 128 * 32000
    assert drawing("models.policy.dtype=float32") == (12 + 4) * 128 * 32000
    few = "generator={use: hf, max_batch: 420}"
    assert drawing(few) == (12 + 2) * 10 * 32000


def test_what_is_lent_to_the_generator_is_missing_while_it_generates():
    stays, lends = memory(), memory("learner={use: torch, offload: true}")
    away = stays.held["policy"]["moments"] + stays.held["policy"]["masters"]
    assert stays.moments["generation"] - lends.moments["generation"] == away
    assert stays.moments["update of policy"] == lends.moments["update of policy"]


def test_checkpointing_is_on_when_an_update_would_not_fit_without(monkeypatch):
    auto = "learner={use: torch, gradient_checkpointing: auto}"
    with_it = memory("learner={use: torch, gradient_checkpointing: true}")
    without = memory()
    assert with_it.peak < without.peak and not without.checkpointing
    recipe, parts, specs = opened(auto)
    for room, wanted in ((with_it.peak, True), (without.peak, False)):
        monkeypatch.setattr(engines, "memory", lambda name, room=room: ("CPU", room))
        rows = of_recipe(recipe, parts).rows
        found = chosen(recipe, specs, rows)
        assert found == {"gradient_checkpointing": wanted}
        assert memory(auto).checkpointing is wanted
    assert chosen(opened()[0], specs, rows) == {}


def test_a_run_takes_auto(run):
    run("grpo", "learner={use: torch, gradient_checkpointing: auto}", "steps=1")


def test_a_plan_tells_the_parts_the_moments_and_the_peak():
    told = "\n".join(plan("grpo", [*MODEL, "learner={use: torch, max_tokens: 512}"]))
    for words in (
        "16 prompts a step; at most 16 groups of at most 8 trajectories: 128",
        "policy: weights 0.000, moments 0.001, masters 0.000",
        "(micro-batch of 512 tokens)",
        "gradient checkpointing: off",
        "peak: 0.0",
    ):
        assert words in told, told


def test_a_learner_that_rests_is_refused_beside_a_generator_that_never_does():
    with pytest.raises(RecipeError, match="with 'staleness: 1' the learner works while the"):
        opened("learner={use: torch, offload: true}", "staleness=1")


def test_rows_that_wait_for_a_phase_count_where_it_learns_from_them():
    """2 prompts x (8 samples and a demonstration): 18 rows a step; 127 wait, and 18 come."""
    late = ("sampler.prompts=2", "phases.rl.when.first=10")
    more = ("phases.sft.when.at_least=128", "phases.sft.batch_size=100")
    told = "\n".join(plan("relift", [*MODEL, *late, *more]))
    assert "phase rl: at most 198 rows" in told
    assert "phase sft: at most 145 rows" in told and "2 optimizer step(s) of at most 100" in told
    assert "(micro-batch of 8316 tokens)" in told  # of 198 rows of 16 + 26 tokens
    small = "phases.rl.pool={use: queue, capacity: 20}"
    told = "\n".join(plan("relift", [*MODEL, *late, *more, small]))
    assert "phase rl: at most 20 rows" in told and "(micro-batch of 4200 tokens)" in told
