"""What a recipe says takes effect, and what is wrong in it is told where it stands."""

import pytest
from mistakes import mistakes

from didact.configs.assemble import assemble
from didact.configs.document import read
from didact.configs.launch import start_of
from didact.configs.load import check
from didact.configs.rendering import places_of
from didact.configs.resolve import described
from didact.core.errors import RecipeError
from didact.feedback.tasks.rows import Table
from didact.plugins.manager import load


@pytest.fixture(scope="module")
def registry():
    return load(installed=False)


SPREAD = """\
extends: grpo
set:
  experience.2.advantage.scale: stdd
experience:
  - rollout:
      use: policy
      n: eight
  - score
  - advantage: group_norm
rewards:
  number: letters_answe
phases:
  rl:
    rule:
      use: ppo_clip
      clip_low: wide
"""


def test_a_mistake_is_placed_on_its_own_line_under_the_path_that_the_recipe_has(tmp_path, registry):
    lines = mistakes(tmp_path, registry, SPREAD)
    assert [line.split(": ")[:2] for line in lines] == [
        ["mine.yaml:3", "experience.2.advantage.scale"],
        ["mine.yaml:7", "experience.0.rollout.n"],
        ["mine.yaml:11", "rewards.number"],
        ["mine.yaml:16", "phases.rl.rule.clip_low"],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: {use: letters, params: {size: 5}}", "no setting of task 'letters' named 'params'"),
        (
            "experience: [{rollout: {use: policy, source: demonstrations}}]",
            "names its source twice: by 'use: policy' and by 'source:'",
        ),
    ],
)
def test_settings_that_would_be_dropped_are_refused(tmp_path, registry, text, said):
    lines = mistakes(tmp_path, registry, f"extends: grpo\n{text}\n")
    assert any(said in line for line in lines), "\n".join(lines)


def test_a_part_is_reached_by_the_path_of_the_resolved_recipe_too(registry):
    paths = "experience.0.rollout.source.n=5", "experience.2.advantage.estimator.scale=group"
    recipe = check(read("grpo", paths), registry)
    assert recipe.experience[0].params.source.params.n == 5
    assert recipe.experience[2].params.estimator.params.scale == "group"


def test_a_problem_whose_id_two_files_have_is_placed_in_both():
    one = Table("a.jsonl", (), places={"x": "a.jsonl:1", "y": "a.jsonl:2"})
    two = Table("b.jsonl", (), places={"x": "b.jsonl:5", "y": "a.jsonl:2"})
    placed = {"x": "a.jsonl:1 or b.jsonl:5", "y": "a.jsonl:2"}
    assert places_of(one, two, None) == placed


def test_a_base_is_made_anew_when_what_it_is_made_of_changes(tmp_path, registry):
    data = tmp_path / "d.jsonl"
    data.write_text('{"question": "q", "answer": "a"}\n', encoding="utf-8")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("extends: letters_base\nstop: null\nsteps: 1\n", encoding="utf-8")
    second.write_text(
        f"extends: grpo\nbase: {first}\ntask: {{use: jsonl, path: {data}}}\n", encoding="utf-8"
    )
    recipe = check(read("grpo", [f"base={second}"]), registry)
    names = [start_of(recipe, registry)]
    data.write_text('{"question": "p", "answer": "a"}\n', encoding="utf-8")
    names.append(start_of(recipe, registry))
    first.write_text("extends: letters_base\nstop: null\nsteps: 2\n", encoding="utf-8")
    names.append(start_of(recipe, registry))
    assert len(set(names)) == 3
    first.write_text(f"extends: grpo\nbase: {second}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"second\.yaml' is made from itself"):
        start_of(recipe, registry)


def test_what_a_part_refuses_when_it_is_made_is_placed_and_told_at_once(tmp_path, registry):
    file = tmp_path / "mine.yaml"
    text = (
        "extends: grpo\nphases:\n  rl:\n    rule: [ppo_clip, ppo_clip]\n  other:\n"
        "    rule:\n      - {use: ppo_clip, label: loss}\n"
    )
    for more, expected in (
        (text, ["mine.yaml:4: phases.rl.rule: two", "mine.yaml:6: phases.other.rule: two"]),
        ("extends: grpo\nseed: 1\ntask:\n  levels: [9]\n", ["mine.yaml:3: task: letters: there"]),
        ("extends: grpo\ntask: {size: 3}\n", ["letters.yaml:9: sampler: 'prompts' is 16"]),
    ):
        file.write_text(more, encoding="utf-8")
        document = read(file)
        with pytest.raises(RecipeError) as caught:
            assemble(check(document, registry), registry, document)
        lines = str(caught.value).splitlines()
        assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


def test_a_mistake_in_a_range_is_one_line(tmp_path, registry):
    text = "extends: grpo\nphases:\n  rl:\n    take:\n      success_rate: {atleast: 0.5}\n"
    (line,) = mistakes(tmp_path, registry, text)
    assert line.startswith("mine.yaml:5: phases.rl.take.success_rate.atleast: ")


def test_only_a_known_kind_of_part_is_described():
    with pytest.raises(RecipeError, match=r"^no kind of part named 'los'. Did you mean 'loss'\?"):
        described("los:ppo_clip")
