"""Labels of a file and a fine-tuned model's classes: the same answers are right, however the file writes them."""

from __future__ import annotations

import csv
from importlib import resources

import factories
import pytest
from datasets import ClassLabel, Dataset
from transformers import AutoTokenizer, BertConfig

from hf_tinybert import tasks
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.tasks.text_classification import TextClassification

DEMO = resources.files("hf_tinybert.data") / "demo_data" / "eval.csv"
FORMS = {
    "whole numbers": lambda number, name: number,
    "decimals": lambda number, name: f"{number}.0",
    "names": lambda number, name: name,
    "padded names": lambda number, name: f" {name}  ",
}


@pytest.fixture(scope="module")
def teacher(teacher_folder):
    return factories.load(teacher_folder), AutoTokenizer.from_pretrained(teacher_folder)


def measured(path, teacher):
    model, tokenizer = teacher
    task = TextClassification(DataArguments(eval_file=str(path)), training=False, config=model.config)
    encoded = task.encode(tokenizer, model.config)
    return encoded.splits["eval"]["labels"][:], tasks.Evaluator(model, tokenizer, encoded, use_cpu=True).score("eval")


@pytest.fixture(scope="module")
def expected(teacher, tmp_path_factory):
    labels, score = measured(str(DEMO), teacher)
    assert score > 0.6
    return labels, score


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_however_labels_are_written(tmp_path, teacher, expected, form, ending):
    rows = list(csv.DictReader(DEMO.read_text(encoding="utf-8").splitlines()))
    ids = teacher[0].config.label2id
    labels = [FORMS[form](ids[row["intent"]], row["intent"]) for row in rows]
    data = Dataset.from_dict({"text": [row["text"] for row in rows], "label": labels})
    path = tmp_path / f"rows.{ending}"
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[ending](str(path))
    assert measured(path, teacher) == expected


def test_class_labels_in_another_order(tmp_path, teacher, expected):
    rows = list(csv.DictReader(DEMO.read_text(encoding="utf-8").splitlines()))
    names = sorted(teacher[0].config.label2id, reverse=True)
    data = Dataset.from_dict({"text": [row["text"] for row in rows], "label": [row["intent"] for row in rows]})
    data.cast_column("label", ClassLabel(names=names)).to_parquet(str(tmp_path / "rows.parquet"))
    assert measured(tmp_path / "rows.parquet", teacher) == expected


def written(path, rows):
    path.write_text("".join(f"{text},{label}\n" for text, label in [("text", "label"), *rows]))
    return str(path)


def test_labels_of_the_evaluation_that_training_lacks_count_as_wrong(tmp_path, tokenizer, caplog):
    train = written(tmp_path / "train.csv", [("x", "a"), ("y", "b")])
    held_out = written(tmp_path / "eval.csv", [("x", "a"), ("y", "c"), ("z", "c")])
    task = TextClassification(DataArguments(train_file=train, eval_file=held_out), training=True)
    encoded = task.encode(tokenizer, BertConfig(**task.config_kwargs()))
    assert encoded.splits["eval"]["labels"][:] == [0, -100, -100]
    assert "2 rows of the eval data have labels that the training data does not have (c)" in caplog.text
    other = written(tmp_path / "other.csv", [("x", "c")])
    task = TextClassification(DataArguments(train_file=train, eval_file=other), training=True)
    with pytest.raises(ValueError, match="not trained for: c"):
        task.encode(tokenizer, BertConfig(**task.config_kwargs()))


def test_the_other_splits_have_labels_of_the_kind_of_training(tmp_path, tokenizer):
    train = written(tmp_path / "train.csv", [("x", "1.5"), ("y", "2")])
    held_out = written(tmp_path / "eval.csv", [("x", "1"), ("y", "2")])
    task = TextClassification(DataArguments(train_file=train, eval_file=held_out), training=True)
    assert task.labels["eval"].values == [1.0, 2.0]
    train = written(tmp_path / "train.csv", [("x", "1"), ("y", "2")])
    held_out = written(tmp_path / "eval.csv", [("x", "1.0"), ("y", "2.0")])
    task = TextClassification(DataArguments(train_file=train, eval_file=held_out), training=True)
    assert task.encode(tokenizer, BertConfig(**task.config_kwargs())).splits["eval"]["labels"][:] == [0, 1]


def test_names_for_the_classes_of_a_file(tmp_path, tokenizer):
    train = written(tmp_path / "train.csv", [("x", "1"), ("y", "0")])
    task = TextClassification(DataArguments(train_file=train, class_names=["neg", "pos"]), training=True)
    config = BertConfig(**task.config_kwargs())
    assert config.id2label == {0: "neg", 1: "pos"}
    assert task.encode(tokenizer, config).splits["train"]["labels"][:] == [1, 0]


def test_rows_that_are_left_out_leave_texts_and_labels_together(tmp_path, tokenizer):
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"text": "a", "label": "x"}\n{"text": null, "label": "y"}\n{"text": "c", "label": null}\n'
        '{"text": "d", "label": "y"}\n'
    )
    task = TextClassification(DataArguments(train_file=str(path), skip_invalid_rows=True), training=True)
    assert task.splits["train"]["text"][:] == ["a", "d"]
    assert task.encode(tokenizer, BertConfig(**task.config_kwargs())).splits["train"]["labels"][:] == [0, 1]


def test_columns_with_0_and_1(tmp_path, tokenizer):
    path = tmp_path / "train.csv"
    path.write_text("Text,Fast,Cheap\na,1,0\nb,1,1\nc,0,0\n")
    task = TextClassification(DataArguments(train_file=str(path), label_columns=["fast,cheap"]), training=True)
    config = BertConfig(**task.config_kwargs())
    assert config.problem_type == "multi_label_classification"
    assert list(config.id2label.values()) == ["Fast", "Cheap"]
    assert task.encode(tokenizer, config).splits["train"]["labels"][:] == [[1, 0], [1, 1], [0, 0]]
