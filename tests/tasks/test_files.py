"""Tasks from files: mapping by settings only, and every error with file, line and expectation."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from didact.core.errors import DataError, RecipeError
from didact.core.where import Where
from didact.feedback.tasks.columns import Columns
from didact.feedback.tasks.files import comma_separated, hub, json_lines, parquet
from didact.plugins.signature import params_of

ROWS = [
    {"question": "1+1?", "answer": "2", "level": 1, "steps": "It is 2.", "uid": "a"},
    {"question": "2+2?", "answer": "4", "level": 2, "steps": "It is 4.", "uid": "b"},
    {"question": "3+3?", "answer": "6", "level": 3, "steps": "It is 6.", "uid": "c"},
]
MAPPED = Columns(id="uid", demonstrations="steps", metadata=["level"])


def written(folder: Path, *lines: object, name: str = "data.jsonl") -> str:
    """A file of these lines: objects as JSON, text and bytes as they are."""
    texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines]
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    (folder / name).write_bytes(b"\n".join(raw) + b"\n")
    return str(folder / name)


def message(call, *arguments, **settings) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments, **settings)
    return str(caught.value)


def test_columns_become_the_parts_of_a_problem(tmp_path):
    table = json_lines(written(tmp_path, *ROWS), MAPPED)
    first = table[0]
    assert (first.id, first.question, first.answer) == ("a", "1+1?", "2")
    assert first.demonstrations == ("It is 2.",)
    assert first.metadata == {"level": 1}
    assert len(table) == 3 and table.skipped == []


def test_without_an_id_column_the_file_and_row_name_the_problem(tmp_path):
    assert [p.id for p in json_lines(written(tmp_path, *ROWS))] == ["data/0", "data/1", "data/2"]


def test_a_template_frames_the_question_and_may_use_other_columns(tmp_path):
    template = "Level {level}: {question}\nPut the answer in \\boxed{{}}."
    table = json_lines(written(tmp_path, *ROWS), template=template)
    assert table[1].question == "Level 2: 2+2?\nPut the answer in \\boxed{}."


def test_several_columns_and_lists_of_demonstrations_are_gathered(tmp_path):
    row = {"question": "q", "answer": "a", "first": "x", "more": ["y", "z"]}
    table = json_lines(written(tmp_path, row), Columns(demonstrations=["first", "more"]))
    assert table[0].demonstrations == ("x", "y", "z")


def test_a_dot_reaches_into_objects(tmp_path):
    row = {"prompt": [{"role": "user", "content": "hi"}], "reward_model": {"ground_truth": "4"}}
    columns = Columns(question="prompt", answer="reward_model.ground_truth")
    problem = json_lines(written(tmp_path, row), columns)[0]
    assert problem.question == [{"role": "user", "content": "hi"}]
    assert problem.answer == "4"


def test_an_answer_is_found_by_pattern_or_in_its_box(tmp_path):
    rows = [
        {"question": "q", "answer": "48/2 = <<48/2=24>>24\n#### 24"},
        {"question": "q", "answer": "#### 1\nno, #### 1,000 "},
    ]
    path = written(tmp_path, *rows)
    found = json_lines(path, Columns(answer_pattern="#### (.+)"))
    assert [p.answer for p in found] == ["24", "1,000"]
    boxes = ["So $\\boxed{\\frac{1}{2}}$, not \\boxed{3}: $\\boxed{\\{1, 2\\}}$.", "$\\boxed 2$"]
    path = written(tmp_path, *[{"question": "q", "answer": text} for text in boxes])
    assert [p.answer for p in json_lines(path, Columns(answer_boxed=True))] == ["\\{1, 2\\}", "2"]


def test_where_chooses_rows_by_metadata_and_limit_takes_the_first(tmp_path):
    path = written(tmp_path, *ROWS)
    some = Where.model_validate({"prompt.level": {"at_least": 2}})
    table = json_lines(path, MAPPED, where=some)
    assert [p.id for p in table] == ["b", "c"] and table.filtered == 1
    assert [p.id for p in json_lines(path, MAPPED, where=some, limit=1)] == ["b"]
    with pytest.raises(RecipeError, match="has no metadata 'lvl'"):
        json_lines(path, MAPPED, where=Where({"prompt.lvl": 2}))


def test_data_without_answers_is_read_on_request(tmp_path):
    path = written(tmp_path, {"question": "q", "text": "d"})
    table = json_lines(path, Columns(answer=None, demonstrations="text"))
    assert table[0].answer is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "q", "answer": }', "is no JSON at column 29: Expecting value"),
        ("[1, 2]", "expected an object, found list"),
        ({"question": "q", "uid": "z"}, "no column named 'answer'"),
        ({"question": "q", "answer": " ", "uid": "z"}, "answer 'answer' is empty"),
        ({"question": "q", "answer": None, "uid": "z"}, "answer 'answer' is empty"),
        ({"question": "", "answer": "a", "steps": "s", "uid": "z"}, "'question' is empty"),
        ({"question": 3, "answer": "a", "steps": "s", "uid": "z"}, "must be text, not int 3"),
        ({**ROWS[0], "uid": "z", "steps": ""}, "demonstration 'steps' is empty"),
        ({**ROWS[0], "uid": "z", "steps": None}, "demonstration 'steps' must be text"),
        ({**ROWS[0], "uid": "z", "steps": ["x", ""]}, "demonstration 1 of 'steps' must be text"),
        ({**ROWS[0], "uid": None}, "id 'uid' must be text or a whole number"),
        ({**ROWS[0], "uid": "b"}, "id 'b' was already given in {path}:2"),
        ({**ROWS[0], "uid": "z", "question": [{"role": "user"}]}, "needs 'role' and 'content'"),
        ('{"question": "\\ud800", "answer": "a", "steps": "s", "uid": "z"}', "surrogate"),
        (b'{"question": "caf\xe9"}', "byte 18 of the line (0xe9) is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"question": "q", "answer": ' + "9" * 5000 + "}", "a number is too long"),
        ('{"question": "q", "answer": NaN, "uid": "z"}', "answer 'answer' is empty"),
        ({**ROWS[0], "uid": "z", "steps": ["\ud800"]}, "half of a surrogate pair"),
        ({**ROWS[0], "uid": "z", "answer": "\ud800"}, "half of a surrogate pair"),
        ({**ROWS[0], "uid": "z", "question": []}, "is a chat without messages"),
    ],
)
def test_a_bad_row_is_an_error_with_file_line_and_reason_or_is_listed(tmp_path, line, said):
    path = written(tmp_path, ROWS[0], ROWS[1], line, ROWS[2])
    text = message(json_lines, path, MAPPED)
    assert text.startswith(f"{path}:3: ") and said.format(path=path) in text
    assert "skip_bad: true" in text
    table = json_lines(path, MAPPED, skip_bad=True)
    assert [p.id for p in table] == ["a", "b", "c"]
    assert len(table.skipped) == 1 and table.skipped[0].startswith(f"{path}:3: ")


def test_many_bad_rows_are_counted_and_the_first_ones_shown(tmp_path):
    path = written(tmp_path, ROWS[0], *["{"] * 30)
    text = message(json_lines, path)
    assert f"{path}:2: " in text and f"{path}:11: " in text and f"{path}:12: " not in text
    assert "… and 20 more bad rows." in text
    assert len(json_lines(path, skip_bad=True).skipped) == 30


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    path = written(tmp_path, ROWS[0], "", "{")
    assert message(json_lines, path).startswith(f"{path}:3: ")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_column_that_no_row_has_is_never_skipped(tmp_path, skip_bad):
    path = written(tmp_path, *ROWS)
    text = message(json_lines, path, Columns(demonstrations="step"), skip_bad=skip_bad)
    assert "no column named 'step'. Did you mean 'steps'?" in text
    assert "Available: answer, level, question, steps, uid." in text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{question} \\boxed{}", "braces that stay as they are twice"),
        ("{qestion}", "must name {question}"),
        ("{question} {lvel}", "no column named 'lvel'. Did you mean 'level'"),
        ("{question} {question.__class__}", "no column named 'question.__class__'"),
        ("{question", "expected '}'"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(tmp_path, template, said):
    assert said in message(json_lines, written(tmp_path, *ROWS), template=template)


def test_an_answer_without_its_pattern_or_box_is_a_bad_row(tmp_path):
    path = written(tmp_path, ROWS[0])
    assert "nothing that matches '#### (.+)'" in message(
        json_lines, path, Columns(answer_pattern="#### (.+)")
    )
    assert "has no \\boxed{}" in message(json_lines, path, Columns(answer_boxed=True))
    path = written(tmp_path, {"question": "q", "answer": "\\boxed{1"})
    assert "that is open" in message(json_lines, path, Columns(answer_boxed=True))
    path = written(tmp_path, {"question": "q", "answer": "\\boxed{ }"})
    assert "that is empty" in message(json_lines, path, Columns(answer_boxed=True))


def test_nothing_left_is_an_error(tmp_path):
    path = written(tmp_path, *ROWS)
    where = Where({"prompt.level": 9})
    assert "of 3 rows: 0 are bad, 3 are not chosen" in message(
        json_lines, path, MAPPED, where=where
    )
    assert "no problem is left of 0 rows" in message(json_lines, written(tmp_path, ""))


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(ROWS[0]), encoding="utf-16")
    assert f"{path}:1: is UTF-16; expected UTF-8" in message(json_lines, str(path))
    path.write_text(json.dumps(ROWS[0]), encoding="utf-8-sig")
    assert len(json_lines(str(path))) == 1


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    written(tmp_path, *ROWS, name="train.jsonl")
    text = message(json_lines, str(tmp_path / "trian.jsonl"))
    assert "no file named 'trian.jsonl'. Did you mean 'train.jsonl'?" in text
    assert "is a folder" in message(json_lines, str(tmp_path))
    assert "there is no folder" in message(json_lines, str(tmp_path / "no" / "a.jsonl"))


@pytest.mark.parametrize("factory", [json_lines, comma_separated, parquet, hub])
def test_the_settings_of_a_recipe_are_the_signature(factory):
    given = {"path": "x", "columns": {"answer": None}, "where": {"prompt.level": [1, 2]}}
    if factory is hub:
        given["name"] = given.pop("path")
    made = params_of("task", factory).model_validate(given)
    assert made.columns.answer is None and made.template == "{question}"


def test_an_unknown_key_of_the_mapping_names_the_nearest():
    with pytest.raises(ValueError, match=r"named 'qestion'\. Did you mean 'question'"):
        Columns.model_validate({"qestion": "problem"})


def test_a_table_does_not_print_its_problems(tmp_path):
    assert "1+1?" not in repr(json_lines(written(tmp_path, *ROWS)))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"level": None}, "'level', which the template names, is empty"),
        ({}, "no column named 'level'"),
        ({"level": "high"}, "cannot be filled: Unknown format code 'd'"),
    ],
)
def test_a_row_that_cannot_fill_the_template_is_a_bad_row(tmp_path, row, said):
    path = written(tmp_path, ROWS[0], {"question": "q", "answer": "a", **row})
    text = message(
        json_lines, path, template="Level {level:d}: {question}" if row else "{level} {question}"
    )
    assert text.startswith(f"{path}:2: ") and said in text


def test_a_pattern_for_answers_needs_a_group_and_takes_the_first(tmp_path):
    for pattern, said in (("#### .+", "needs a group"), ("(", "is no regular expression")):
        with pytest.raises(ValidationError, match=said):
            Columns(answer_pattern=pattern)
    path = written(tmp_path, {"question": "q", "answer": "#### 4 apples"})
    (problem,) = json_lines(path, Columns(answer_pattern="#### (\\d+) (\\w+)"))
    assert problem.answer == "4"


def test_every_problem_has_its_place(tmp_path):
    path = written(tmp_path, "", *ROWS)
    places = {"a": f"{path}:2", "b": f"{path}:3", "c": f"{path}:4"}
    assert json_lines(path, MAPPED).places == places
