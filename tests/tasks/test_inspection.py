"""What was understood of data, and what may not be meant so."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time

import pytest

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.tasks import TASKS
from hf_tinybert.tasks.inspection import announce, inspect


def written(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    return str(path)


def found(tmp_path, train, held_out=None, tokenizer=None, task="text-classification", **options):
    files = {"train_file": written(tmp_path / "train.csv", train)}
    if held_out is not None:
        files["eval_file"] = written(tmp_path / "eval.csv", held_out)
    return inspect(TASKS[task](DataArguments(**files, **options), training=True), tokenizer)


PLAIN = [(f"text {number}", label) for number, label in enumerate("abababab")]


def test_what_was_understood(tmp_path):
    lines = found(tmp_path, PLAIN).lines
    assert lines == [
        f"train: {tmp_path / 'train.csv'}, 8 rows",
        "  one label a text; text 'text', label 'label'",
        "  2 classes: a 4, b 4",
        "  such as 'text 0' -> a",
    ]
    numbers = found(tmp_path, [("good", "1.5"), ("bad", "-2.25")]).lines
    assert numbers[1:3] == ["  regression; text 'text', number 'label'", "  numbers from -2.25 to 1.5"]


def test_texts_that_are_cut_are_counted(tmp_path, tokenizer):
    rows = [("a " * 5, "a"), ("a " * 30, "b")]
    assert found(tmp_path, rows, tokenizer=tokenizer, max_length=16).lines[-1] == (
        "  1 of 2 texts are longer than --max-length 16 and are cut; the longest has 32 tokens"
    )
    assert "--max-length" not in str(found(tmp_path, rows, tokenizer=tokenizer, max_length=32))


@pytest.mark.parametrize(
    ("train", "held_out", "doubt"),
    [
        (PLAIN, None, None),
        ([*PLAIN, ("x", "A"), ("y", "A")], None, "train: classes that differ in case only: A, a"),
        ([*PLAIN, ("x", "c")], None, "train: 1 class of one row: c"),
        ([*PLAIN, PLAIN[3], PLAIN[3]], None, "train: 2 rows stand there more than once, such as 'text 3'"),
        ([*PLAIN, ("text 3", "a")], None, "train: 1 texts have several labels in different rows, such as 'text 3'"),
        ([*PLAIN, ("  ", "a")], None, "train: 1 rows have an empty text, such as row 9"),
        (PLAIN, [("text 1", "b")], "eval: 1 rows stand in the training data as well, such as 'text 1'"),
        (PLAIN, [("new", "c")], "eval: 1 label that the training data do not have: c"),
    ],
)
def test_doubts(tmp_path, train, held_out, doubt):
    assert found(tmp_path, train, held_out).doubts == ([] if doubt is None else [doubt])


def test_other_tasks(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"tokens": ["Oslo", "shines"], "tags": ["B-x", "O"]}) + "\n")
    lines = inspect(TASKS["token-classification"](DataArguments(train_file=str(path)), training=True)).lines
    assert lines[1:] == [
        "  a tag for each word; words 'tokens', tags 'tags'",
        "  2 classes: B-x 1, O 1",
        "  such as 'Oslo shines' -> B-x O",
    ]
    answers = {"text": ["Oslo"], "answer_start": [0]}
    path.write_text(json.dumps({"question": "Where?", "context": "Oslo shines", "answers": answers}) + "\n")
    lines = inspect(TASKS["question-answering"](DataArguments(train_file=str(path)), training=True)).lines
    assert lines[-1] == "  such as 'Where? | Oslo shines' -> Oslo"
    for task in ("fill-mask", "feature-extraction"):
        assert found(tmp_path, PLAIN, task=task).lines[-1] == "  such as 'text 0'"


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    """Less than 60 seconds and 1.5 GB."""
    path = tmp_path / "rows.csv"
    written(path, ((f"the film number {number} is good and long", "pn"[number % 2]) for number in range(1_000_000)))
    code = "import resource, sys; from hf_tinybert.cli import main; main(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(path)], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - began < 60
    assert "1,000,000 rows" in done.stdout
    assert int(done.stdout.split()[-1]) < 1.5e6


def test_of_several_processes_the_first_speaks(tmp_path, monkeypatch, capsys, caplog):
    task = TASKS["text-classification"](
        DataArguments(train_file=written(tmp_path / "train.csv", [*PLAIN, PLAIN[0]])), training=True
    )
    announce(task)
    assert "train.csv, 9 rows" in capsys.readouterr().err
    assert "stand there more than once" in caplog.text
    monkeypatch.setenv("RANK", "1")
    announce(task)
    assert not capsys.readouterr().err
