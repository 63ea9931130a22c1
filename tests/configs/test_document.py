"""Recipe files: inheritance, removal, overrides, and where every value came from."""

from pathlib import Path

import pytest

from didact.configs.document import read
from didact.core.errors import RecipeError


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_mappings_merge_and_lists_replace(tmp_path):
    write(tmp_path, "base.yaml", "a: {x: 1, y: 2}\nb: [1, 2]\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\na: {y: 3}\nb: [9]\n")
    assert read(child).data == {"a": {"x": 1, "y": 3}, "b": [9]}


def test_another_part_replaces_the_inherited_one_whole(tmp_path):
    write(tmp_path, "base.yaml", "pool: {use: ring, capacity: 3}\n")
    other = write(tmp_path, "other.yaml", "extends: base.yaml\npool: {use: queue}\n")
    same = write(tmp_path, "same.yaml", "extends: base.yaml\npool: {use: ring, keep: 1}\n")
    assert read(other).data == {"pool": {"use": "queue"}}
    assert read(same).data == {"pool": {"use": "ring", "capacity": 3, "keep": 1}}


def test_settings_can_be_added_to_a_part_inherited_by_its_bare_name(tmp_path):
    write(tmp_path, "base.yaml", "task: letters\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\ntask: {size: 9}\n")
    assert read(child).data == {"task": {"use": "letters", "size": 9}}


def test_remove_takes_an_inherited_key_away(tmp_path):
    write(tmp_path, "base.yaml", "a: {x: 1, y: 2}\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\na:\n  x: !remove\n")
    assert read(child).data == {"a": {"y": 2}}
    wrong = write(tmp_path, "wrong.yaml", "extends: base.yaml\na:\n  z: !remove\n")
    with pytest.raises(RecipeError, match=r"wrong.yaml:3: a.z: nothing to remove.*Available: x, y"):
        read(wrong)


def test_later_parents_win_and_the_file_itself_last(tmp_path):
    write(tmp_path, "one.yaml", "a: 1\nb: 1\nc: 1\n")
    write(tmp_path, "two.yaml", "b: 2\nc: 2\n")
    child = write(tmp_path, "child.yaml", "extends: [one.yaml, two.yaml]\nc: 3\n")
    assert read(child).data == {"a": 1, "b": 2, "c": 3}


def test_set_and_overrides_reach_inside_lists(tmp_path):
    base = write(tmp_path, "base.yaml", "stages: [score, {rollout: {n: 8}}]\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\nset: {stages.1.rollout.n: 4}\n")
    assert read(child).data["stages"][1] == {"rollout": {"n": 4}}
    assert read(base, ["stages.0.score.solved_at=0.5"]).data["stages"][0] == {
        "score": {"solved_at": 0.5}
    }
    with pytest.raises(RecipeError, match="'stages' is a list of 2; '7' is not one of its"):
        read(base, ["stages.7.x=1"])


def test_the_one_item_of_a_list_written_without_it_is_its_first(tmp_path):
    base = write(
        tmp_path, "base.yaml", "rule: {use: a, times: b}\nother: {rule: c}\nlist: {rule: [d, e]}\n"
    )
    overrides = ["rule.0.times.0.x=1", "other.rule.0.y=2", "list.rule.1.z=3"]
    assert read(base, overrides).data == {
        "rule": [{"use": "a", "times": [{"use": "b", "x": 1}]}],
        "other": {"rule": [{"use": "c", "y": 2}]},
        "list": {"rule": ["d", {"use": "e", "z": 3}]},
    }
    with pytest.raises(RecipeError, match="'rule' is a list of 1; '1' is not one of its"):
        read(base, ["rule.1.y=1"])


def test_values_remember_the_file_and_line_they_came_from(tmp_path):
    write(tmp_path, "base.yaml", "a:\n  x: 1\n  y: 2\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\n\na: {y: 3}\n")
    document = read(child, ["b=1"])
    assert str(document.place(("a", "x"))) == "base.yaml:2"
    assert str(document.place(("a", "y"))) == "child.yaml:3"
    assert str(document.place(("b",))) == "override b=1"


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path):
    file = write(tmp_path, "a.yaml", "lr: 1e-6\non: off\ninf: .inf\ndate: 2024-01-01\nyes: true\n")
    data = read(file).data
    assert data == {"lr": 1e-6, "on": "off", "inf": float("inf"), "date": "2024-01-01", "yes": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", r"bad.yaml:2: key 'a' is given twice"),
        ("a: [1\nb: 2\n", r"bad.yaml:2: "),
        ("- 1\n", r"bad.yaml:1: a recipe is a mapping"),
        ("a: !!python/object:os.system {}\n", r"bad.yaml:1: could not determine a constructor"),
        ("extends: bad.yaml\n", r"bad.yaml: extends itself"),
        ("extends: grpoo\n", r"bad.yaml:1: extends: no recipe named 'grpoo'. Did you mean 'grpo'"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path, text, message):
    file = write(tmp_path, "bad.yaml", text)
    with pytest.raises(RecipeError, match=message):
        read(file)


def test_a_file_that_is_not_utf8_says_so(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(RecipeError, match=r"bad.yaml: not UTF-8 \(byte 3\)"):
        read(tmp_path / "bad.yaml")


def test_an_average_replaces_the_inherited_one_whole(tmp_path):
    write(tmp_path, "named.yaml", "phases: {rl: {average: tokens}}\n")
    write(tmp_path, "given.yaml", "phases: {rl: {average: {per_sequence: 8}}}\n")
    for parent in ("named.yaml", "given.yaml"):
        text = f"extends: {parent}\nphases: {{rl: {{average: {{total: 9}}}}}}\n"
        child = write(tmp_path, "child.yaml", text)
        assert read(child).data == {"phases": {"rl": {"average": {"total": 9}}}}


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    text = "a: 012\nb: 0x10\nc: 1:30\nd: 1e-6\ne: {010: 1}\nf: 0o17\n"
    data = read(write(tmp_path, "numbers.yaml", text)).data
    assert data == {"a": 12, "b": 16, "c": "1:30", "d": 1e-6, "e": {10: 1}, "f": 15}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: 3\n", "odd.yaml:1: extends: name a recipe, or list several."),
        ("a: 1\nextends:\n", "odd.yaml:2: extends: name a recipe, or list several."),
        ("extends: [grpo, 3]\n", "odd.yaml:1: extends: name a recipe, or list several."),
        ("a: 1\n? [b, c]\n: 3\n", "odd.yaml:2: a key must be a word or a whole number."),
        ("a: {null: 3}\n", "odd.yaml:1: a key must be a word or a whole number."),
    ],
)
def test_what_no_recipe_can_mean_is_told_with_its_line(tmp_path, text, said):
    with pytest.raises(RecipeError) as caught:
        read(write(tmp_path, "odd.yaml", text))
    assert str(caught.value) == said


def test_places_move_up_with_the_items_of_a_list(tmp_path):
    file = write(tmp_path, "list.yaml", "a:\n  - b\n  - c: 1\n  - d:\n      e: 2\n")
    document = read(file, ["a.0=!remove"])
    assert document.data == {"a": [{"c": 1}, {"d": {"e": 2}}]}
    assert [document.place(("a", 0)).line, document.place(("a", 1, "d", "e")).line] == [3, 5]
