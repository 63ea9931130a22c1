"""A recipe with ten typical mistakes gives ten readable lines with line numbers."""

import pytest
from mistakes import mistakes

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.load import check
from didact.plugins.manager import load
from didact.plugins.signature import hints_of, shown

TEN = """\
extends: grpo
stepz: 10
seed: one
sampling: {temperature: -1}
task: {use: leters}
rewards: {correct: {use: letters_answer, wieght: 2}}
optimizers:
  main: {lr: fast}
experience:
  - rolout: {use: policy}
  - rollout: {use: policy, n: eight}
  - advantage: {use: group_norm, scale: stdd}
phases:
  rl:
    rule: [{use: ppo_clp}, {use: ppo_clip, clip_hgih: 0.3}]
"""


@pytest.fixture(scope="module")
def registry():
    return load(installed=False)


def test_ten_mistakes_are_eleven_lines_each_with_its_place(tmp_path, registry):
    lines = mistakes(tmp_path, registry, TEN)
    expected = [
        ("mine.yaml:2", "stepz", "Did you mean 'steps'?"),
        ("mine.yaml:3", "seed", "valid integer"),
        ("mine.yaml:4", "sampling.temperature", "greater than or equal to 0"),
        ("mine.yaml:5", "task", "no task named 'leters'. Did you mean 'letters'?"),
        ("mine.yaml:6", "rewards.correct.wieght", "Did you mean 'weight'?"),
        ("mine.yaml:8", "optimizers.main.lr", "valid number"),
        ("mine.yaml:10", "experience.0", "no stage named 'rolout'. Did you mean 'rollout'?"),
        ("mine.yaml:11", "experience.1.rollout.n", "valid integer"),
        ("mine.yaml:12", "experience.2.advantage.scale", "'group'"),
        ("mine.yaml:15", "phases.rl.rule.0", "no loss named 'ppo_clp'. Did you mean 'ppo_clip'?"),
        ("mine.yaml:15", "phases.rl.rule.1.clip_hgih", "Did you mean 'clip_high'?"),
    ]
    for place, path, words in expected:
        assert any(line.startswith(f"{place}: {path}: ") and words in line for line in lines), (
            f"{place}: {path}: … {words}\n" + "\n".join(lines)
        )
    assert len(lines) == len(expected), "\n".join(lines)


def test_a_rule_that_reads_what_no_stage_makes_names_the_stage_that_could(tmp_path, registry):
    text = "extends: grpo\nexperience:\n  - rollout: policy\n  - score\n"
    (line,) = mistakes(tmp_path, registry, text)
    assert line.endswith(
        "phases.rl.rule: reads 'advantages', but no stage of 'experience' adds it. "
        "'advantages' comes from stage 'advantage'."
    )


def test_a_stage_before_its_input_names_position_and_line(tmp_path, registry):
    text = "extends: grpo\nexperience:\n  - rollout: policy\n  - advantage: group_norm\n  - score\n"
    (line,) = mistakes(tmp_path, registry, text)
    assert line.startswith("mine.yaml:4: experience.1: 'advantage: group_norm' needs 'reward'")
    assert "'reward' comes from stage 'score'" in line


def test_misfits_between_parts_are_told_together(tmp_path, registry):
    text = """\
extends: relift
buffers: {seen: ring}
experience:
  - rollout: {use: policy, n: 8}
  - score
  - store: {buffer: sen, where: {novelty: {at_least: 1}}}
  - advantage: group_norm
  - rollout: demonstrations
phases:
  sft: {optimizer: sfft, draw: 9, model: critic}
  rl: {rule: [ppo_clip, {use: kl_k3, bind: {ref_logprobs: teacher_logprobs}}]}
"""
    lines = mistakes(tmp_path, registry, text)
    for words in (
        "mine.yaml:6: experience.2: 'store' needs 'novelty'",
        "mine.yaml:6: experience.2: no buffer named 'sen'. Did you mean 'seen'?",
        "mine.yaml:10: phases.sft.optimizer: no optimizer named 'sfft'. Did you mean 'sft'?",
        "mine.yaml:10: phases.sft.draw: draws 9 rows but fires with 8 waiting",
        "mine.yaml:10: phases.sft.model: no model named 'critic'",
        "mine.yaml:11: phases.rl.rule: reads 'teacher_logprobs': no model named 'teacher'",
    ):
        assert any(line.startswith(words) for line in lines), f"{words}\n" + "\n".join(lines)
    assert any("optimizers.sft: no phase steps it" in line for line in lines)
    assert any("buffers.seen: no part of the recipe names it" in line for line in lines)
    assert len(lines) == 8, "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "phases: {rl: {rule: [ppo_clip, {use: ppo_clip, weight: 0.1}]}}",
            "reported as 'ppo_clip'",
        ),
        ("phases: {rl: {rule: {use: ppo_clip, label: loss}}}", "reported as 'loss'"),
        ("optimizers: {mian: {lr: 1.0}}", "optimizers.mian: no phase steps it"),
        ("base: letters_bse", "base: no recipe named 'letters_bse'. Did you mean 'letters_base'?"),
        ("evaluation: {ks: [1, 64]}", "pass@64 is undefined for 8 samples"),
        ("evaluation: {samples: 0, ks: [1], bins: true}", "base difficulty is measured on"),
        ("evaluation: {every: 0}\nstop: {metric: eval/greedy, at_least: 1}", "needs an evaluation"),
        (
            "experience:\n  - fill:\n      groups: 2\n"
            "      stages: [{rollout: policy}, {read: {columns: [teachr_logprobs]}}]",
            "no model named 'teachr'",
        ),
        ("experience:\n  - rollout: policy\n  - score: {solved_by: corect}", "'correct'"),
        ("models: {critic: {kind: value}}", "models.critic: nothing uses it"),
        ("buffers: {seen: ring}", "buffers.seen: no part of the recipe names it"),
        ("phases: {rl: {rule: []}}", "phases.rl.rule: List should have at least 1 item"),
        ("phases: {rl: {when: {first: 3, last: 2}}}", "ends with step 2, before it begins: 3"),
        (
            "phases: {rl: {rule: pairwise, average: sequences}}",
            "phases.rl.average: is read by nothing: 'pairwise' has a denominator of its own",
        ),
        (
            "phases: {rl: {pool: {use: queue, capacity: 4}, when: {at_least: 8}}}",
            "fires with 8 rows waiting, but its pool holds 4",
        ),
        (
            "stop: {metric: eval/greddy, at_least: 1}",
            "stop.metric: no metric named 'eval/greddy'. Did you mean 'eval/greedy'?",
        ),
        (
            "stop: {metric: eval/greedy/levle=4, at_least: 1}",
            "Did you mean 'eval/greedy/level=…'?",
        ),
        ("stop: {metric: eval/avg@8, at_least: 1}", "no metric named 'eval/avg@8'"),
    ],
)
def test_what_would_be_silently_wrong_is_refused_when_the_recipe_loads(
    tmp_path, registry, text, said
):
    lines = mistakes(tmp_path, registry, f"extends: grpo\n{text}\n")
    assert any(said in line for line in lines), "\n".join(lines)


@pytest.mark.parametrize("name", ["luffy", "nft", "dapo", "grpo", "hpt", "online_dpo"])
def test_a_resolved_recipe_is_a_recipe(tmp_path, name):
    from didact.configs.resolve import expanded

    text = expanded(name)
    file = tmp_path / "again.yaml"
    file.write_text(text, encoding="utf-8")
    assert expanded(file) == text


RANGES = """\
extends: relift
sampler: {use: shuffled, prompts: 0}
sampling:
  top_p: 1.5
  top_k: -1
  max_tokens: 0
optimizers:
  main: {lr: -1, betas: [0.9, 1], weight_decay: -1, clip: -1}
  sft: {lr: {cosine: [0.1, -0.1], over: 5}}
experience:
  - rollout: {use: policy, n: 0, temperature: -1, top_p: 0, turns: 0}
  - score: {tolerate: 2}
  - rollout: {use: demonstrations, n: 0}
  - advantage: {use: group_norm, eps: -1}
phases:
  rl:
    when: {first: -1}
    rule: {use: ppo_clip, clip_low: {linear: [0.2, -0.1], over: 9}, dual_clip: 1}
  sft:
    pool: {capacity: 0}
"""


def test_a_value_out_of_its_range_is_refused_with_its_place(tmp_path, registry):
    lines = mistakes(tmp_path, registry, RANGES)
    expected = [
        ("2: sampler.prompts", "greater than or equal to 1"),
        ("4: sampling.top_p", "less than or equal to 1"),
        ("5: sampling.top_k", "greater than or equal to 0"),
        ("6: sampling.max_tokens", "greater than or equal to 1"),
        ("8: optimizers.main.lr", "greater than or equal to 0"),
        ("8: optimizers.main.betas.1", "less than 1"),
        ("8: optimizers.main.weight_decay", "greater than or equal to 0"),
        ("8: optimizers.main.clip", "greater than 0"),
        ("9: optimizers.sft.lr", "greater than or equal to 0"),
        ("11: experience.0.rollout.n", "greater than or equal to 1"),
        ("11: experience.0.rollout.temperature", "greater than or equal to 0"),
        ("11: experience.0.rollout.top_p", "greater than 0"),
        ("11: experience.0.rollout.turns", "greater than or equal to 1"),
        ("12: experience.1.score.tolerate", "less than or equal to 1"),
        ("13: experience.2.rollout.n", "greater than or equal to 1"),
        ("14: experience.3.advantage.eps", "greater than or equal to 0"),
        ("17: phases.rl.when.first", "greater than or equal to 0"),
        ("18: phases.rl.rule.clip_low", "greater than or equal to 0"),
        ("18: phases.rl.rule.dual_clip", "greater than 1"),
        ("20: phases.sft.pool.capacity", "greater than or equal to 1"),
    ]
    told = "\n".join(lines)
    for place, words in expected:
        assert f"mine.yaml:{place}: Input should be {words}" in told, f"{place} {words}\n{told}"
    assert len(lines) == len(expected), told


def test_metrics_that_an_evaluation_reports_can_stop_a_run(registry):
    settings = "samples_every=true", "greedy=false", "ks=[1, 2]"
    for metric in ("avg@8", "pass@2", "pass@2/level=4", "avg@8/bin=hardest", "kl_start", "length"):
        overrides = [f"evaluation.{one}" for one in settings]
        document = read("grpo", [*overrides, f"stop={{metric: eval/{metric}, at_least: 1}}"])
        assemble(check(document, registry), registry, document)


def test_what_is_inherited_and_not_used_can_be_removed(tmp_path, registry):
    text = "extends: ppo\nphases: {value: !remove }\nmodels: {value: !remove }\n"
    text += "optimizers: {value: !remove }\n"
    text += "experience: [{rollout: policy}, score, {advantage: group_norm}]\n"
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    document = read(file)
    assemble(check(document, registry), registry, document)
    kept = [line for line in text.splitlines() if "models" not in line]
    (line,) = mistakes(tmp_path, registry, "\n".join(kept))
    assert "models.value: nothing uses it" in line and "ppo.yaml" in line


def test_a_phase_whose_window_lies_beyond_the_run_is_told(registry):
    document = read("offline_sl", ["steps=10"])
    (told,) = assemble(check(document, registry), registry, document).notices
    assert told.startswith("phases.sft: never steps: its window begins with step 10")
    document = read("offline_sl", ["steps=11"])
    assert not assemble(check(document, registry), registry, document).notices


def test_every_whole_number_that_a_built_in_part_takes_has_a_range(registry):
    for entry in registry.entries():
        hints = hints_of(entry.factory)
        for name in entry.params.model_fields:
            bare = {"int", "int | None"} & {shown(hints[name])}
            assert not bare or name == "seed", f"{entry.kind} '{entry.name}': {name}"


def test_a_schedule_within_the_range_is_taken(tmp_path, registry):
    file = tmp_path / "mine.yaml"
    text = (
        "extends: grpo\nphases: {rl: {rule: {use: ppo_clip, clip_low: {linear: [0, 1], over: 9}}}}"
    )
    file.write_text(text, encoding="utf-8")
    (rule,) = check(read(file), registry).phases["rl"].rule
    assert rule.params.clip_low.linear == (0.0, 1.0)
