"""Reading JSON: its forms, types that differ, and lines that are none."""

from __future__ import annotations

import json

import pytest

from hf_tinybert.data.arguments import DataArguments, FileArguments
from hf_tinybert.data.loading import load_raw, read_file


def read(tmp_path, content, name="rows.jsonl", **options):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    found, _ = read_file(path, FileArguments(**options))
    return {split: dataset.to_list() for split, dataset in found.items()}


ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"version": "1", "data": ROWS},
        {"rows": ROWS, "tags": ["x"]},
        {"text": ["a", "b"], "label": [1, 0]},
    ],
)
def test_forms_of_a_document(tmp_path, document):
    assert read(tmp_path, document, "rows.json") == {"": ROWS}


def test_rows_that_are_lists_have_numbered_columns(tmp_path):
    splits = read(tmp_path, {"train": [["a", "x"]], "val": [["b", "y"]], "oos_val": []}, "rows.json")
    assert splits == {"train": [{"1": "a", "2": "x"}], "val": [{"1": "b", "2": "y"}]}


def test_a_file_of_splits(tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": ROWS, "val": ROWS[:1], "test": ROWS[1:], "oos": ROWS}))
    data = load_raw(DataArguments(train_file=str(path)))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 2, "eval": 1, "test": 1}
    data = load_raw(DataArguments(train_file=str(path), eval_file=str(path)))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 2, "eval": 1}
    path.write_text(json.dumps({"train": ROWS}))
    with pytest.raises(
        ValueError, match=r"all\.json has the splits train, and --eval-file takes one that is called validation or"
    ):
        load_raw(DataArguments(eval_file=str(path)))


def test_lines_under_the_name_of_a_document(tmp_path):
    assert read(tmp_path, '{"text": "a"}\n{"text": "b"}\n', "rows.json") == {"": [{"text": "a"}, {"text": "b"}]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", 0], ["1", "0"]),
        ([1, 2.5], [1.0, 2.5]),
        ([True, "x"], ["true", "x"]),
        ([[1], ["a", None]], [["1"], ["a", None]]),
        ([{"a": 1}, {"a": "x", "b": 2}], [{"a": "1", "b": None}, {"a": "x", "b": 2}]),
        ([{"a": "x"}, {"a": ["y"]}], [{"a": ["x"]}, {"a": ["y"]}]),
        ([2**70, 1], [str(2**70), "1"]),
        ([None, 3], [None, 3]),
    ],
)
def test_values_of_different_types(tmp_path, values, expected):
    rows = "".join(json.dumps({"x": value}) + "\n" for value in values)
    assert [row["x"] for row in read(tmp_path, rows)[""]] == expected


def test_a_missing_entry_is_a_missing_value(tmp_path):
    assert read(tmp_path, '{"text": "a"}\n{"label": 1}\n')[""][1] == {"text": None, "label": 1}


def test_lists_among_single_values_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"line 2: the column 'x' holds a list, \[1\], and a single value in rows before"
    ):
        read(tmp_path, '{"x": 1}\n{"x": [1]}\n')


def test_objects_among_the_values_of_a_list_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the column 'x' holds values of different forms: objects stand beside"):
        read(tmp_path, '{"x": ["a", {"y": 1}]}\n{"x": ["a"]}\n')


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is no JSON"),
        ("3", "it is 3, and not a row"),
        ('"text"', 'it is "text", and not a row'),
    ],
)
def test_lines_that_are_no_rows(tmp_path, line, why):
    content = f'{{"text": "a"}}\n{line}\n\n{{"text": "b"}}\n'
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 2: {why}"):
        read(tmp_path, content)
    assert len(read(tmp_path, content, skip_invalid_rows=True)[""]) == 2


def test_half_a_character_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 1, column 'text': the text has a broken character"):
        read(tmp_path, '{"text": "\\ud83d"}\n')


@pytest.mark.parametrize("document", [3, {"a": 1}, {"a": [1], "b": [1, 2]}])
def test_documents_of_another_form(tmp_path, document):
    with pytest.raises(ValueError, match=r"rows\.json holds .*, and no rows: expected a list of rows"):
        read(tmp_path, document, "rows.json")


def test_squads_file_lacks_something(tmp_path):
    with pytest.raises(ValueError, match="not as SQuAD's own file: question 1 has no 'question'"):
        read(tmp_path, {"data": [{"paragraphs": [{"context": "c", "qas": [{"id": 1}]}]}]}, "rows.json")
