"""Awkward files (`../shared/inputs`): each gives what its README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.tasks import TASKS

FOLDER = Path(__file__).parents[3] / "shared" / "inputs"
TEXTS, WORDS, QUESTIONS = "text-classification", "token-classification", "question-answering"


def read(name, task=TEXTS, **options):
    if not FOLDER.is_dir():
        pytest.skip("no shared inputs")
    return TASKS[task](DataArguments(train_file=str(FOLDER / name), **options), training=True)


#: file -> options, rows, and the classes (None: a regression)
READ = {
    "trailing_comma.csv": ({}, 96, ("0", "1")),
    "sep_line.csv": ({}, 2, ("neg", "pos")),
    "semicolons.csv": ({}, 120, ("0", "1")),
    "utf16.csv": ({}, 120, ("0", "1")),
    "latin1.csv": ({"encoding": "latin-1"}, 120, ("0", "1")),
    "upper_header.csv": ({}, 2, ("neg", "pos")),
    "spaces_in_header.csv": ({}, 2, ("neg", "pos")),
    "no_header.csv": ({"no_header": True, "text_column": "1", "label_column": "2"}, 120, ("0", "1")),
    "quoted.tsv": ({}, 2, ("neg", "pos")),
    "texts_are_numbers.csv": ({}, 40, ("0", "1")),
    "leading_zeros.csv": ({}, 96, ("01", "02")),
    "labels_with_spaces.csv": ({}, 96, ("neg", "pos")),
    "every_row_its_own_label.csv": ({"label_column": "label"}, 96, None),
    "label_changes_type.csv": ({}, 10_500, ("0", "1", "unknown")),
    "score_whole_then_decimal.csv": ({}, 10_500, None),
    "scores_with_NA.csv": ({"skip_invalid_rows": True}, 60, None),
    "decimal_comma.csv": ({"decimal": ","}, 60, None),
    "score_as_text.jsonl": ({}, 96, None),
    "mixed_labels.jsonl": ({}, 120, ("0", "1")),
    "multi_hot.jsonl": ({"class_names": ["a,b,c,d"]}, 96, ("a", "b", "c", "d")),
    "ml_names.jsonl": ({}, 96, ("a", "b")),
    "nested.json": ({}, 96, ("0", "1")),
    "null_text.jsonl": ({"skip_invalid_rows": True}, 95, ("0", "1")),
}


@pytest.mark.parametrize("name", READ)
def test_files_that_are_read(name):
    options, rows, classes = READ[name]
    task = read(name, **options)
    assert len(task.splits["train"]) == rows == len(task.labels["train"].values)
    labels = task.labels["train"]
    if classes is not None:
        assert labels.classes() == classes
    elif name.startswith("every"):
        assert len(labels.classes()) == 96
    else:
        assert labels.kind == "regression"


def test_values_of_files_that_are_read():
    assert read("texts_are_numbers.csv").splits["train"]["text"][:2] == ["815", "559"]
    assert read("quoted.tsv").splits["train"]["text"] == ['a "good" one', "two\nlines"]
    assert read("utf16.csv").splits["train"]["text"][0] == "café i loved every minute take 11"
    assert max(read("decimal_comma.csv", decimal=",").labels["train"].values) == 4.94
    assert read("multi_hot.jsonl").labels["train"].values[0] == ["1"]
    assert "separated by semicolons" in read("semicolons.csv").sources["train"].notes
    assert "spaces around labels are left out" in read("labels_with_spaces.csv").labels["train"].notes


#: file -> task, options, and the error
REFUSED = {
    "unquoted_commas.csv": (TEXTS, r"line 2: it has 3 fields, the header 2: quote texts that contain commas"),
    "third_field_without_header.tsv": (TEXTS, r"line 2: it has 3 fields, the header 2"),
    "short_row.csv": (TEXTS, r"line 3: it has 1 field, the header 2"),
    "latin1.csv": (TEXTS, r"line 2 has the byte 0xe9.*--encoding latin-1 or --encoding cp1252"),
    "no_header.csv": (TEXTS, r"no_header.csv has the columns 'i loved.*use --no-header"),
    "every_row_its_own_label.csv": (TEXTS, r"probably not the label"),
    "scores_with_NA.csv": (TEXTS, r"row 61: there is 'NA'.*--skip-invalid-rows"),
    "decimal_comma.csv": (TEXTS, r"decimal comma.*--decimal ,"),
    "ml_null_inside.jsonl": (TEXTS, r"row 2: a list .* holds a missing label"),
    "null_text.jsonl": (TEXTS, r"row 8: there is no text"),
    "broken_line.jsonl": (TEXTS, r"line 2: it is no JSON"),
    "ner_null_word.jsonl": (WORDS, r"row 21, word 2: there is a missing value in the column 'tokens'"),
    "ner_null_tag.jsonl": (WORDS, r"row 21, word 2: there is a missing value in the column 'tags'"),
    "universal_dependencies.conll": (WORDS, r"10 columns.*4 'PROPN'.*--text-column 2 --label-column 4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(name):
    task, why = REFUSED[name]
    with pytest.raises(ValueError, match=why) as caught:
        read(name, task)
    assert str(FOLDER / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["fill-mask", "feature-extraction"])
def test_a_missing_text_is_refused_in_every_task(task):
    with pytest.raises(ValueError, match="row 8: there is no text"):
        read("null_text.jsonl", task)


def test_files_of_words_and_tags():
    header = read("header.conll", WORDS)
    assert len(header.splits["train"]) == 21
    assert set(header.config_kwargs()["id2label"].values()) == {"B-PER", "O"}
    comments = read("comment_lines.conll", WORDS)
    assert comments.splits["train"][0] == {
        "tokens": ["anna", "lives", "in", "paris"],
        "tags": ["B-PER", "O", "O", "B-LOC"],
    }
    assert len(comments.splits["train"]) == 40
    words = read("universal_dependencies.conll", WORDS, text_column="2", label_column="4").splits["train"]
    assert words[0] == {"2": ["Anna", "runs"], "4": ["PROPN", "VERB"]}


@pytest.mark.parametrize(
    ("name", "rows", "first"),
    [
        ("qa_empty_text.jsonl", 40, {"text": [], "answer_start": []}),
        ("qa_scalar_answer.jsonl", 8, {"text": ["1871"], "answer_start": [26]}),
        ("qa_flat.csv", 20, {"text": ["1871"], "answer_start": [26]}),
        ("qa_squad_official.json", 8, {"text": ["1871"], "answer_start": [26]}),
    ],
)
def test_files_of_questions(name, rows, first):
    splits = read(name, QUESTIONS).splits
    assert len(splits["train"]) == rows
    assert splits["train"][0]["answers"] == first
