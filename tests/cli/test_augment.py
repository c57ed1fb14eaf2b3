from __future__ import annotations

from pathlib import Path

import factories
import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from hf_tinybert.augmentation import WordVectors

#: A process of its own, which keeps what it shares with others in the folder that comes first.
WITH_A_HOME = """
import sys, datasets
from hf_tinybert import cli
from hf_tinybert.utils import work_sharing
work_sharing.HF_HOME = datasets.config.HF_DATASETS_CACHE = sys.argv[1]
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def glove(tmp_path_factory) -> str:
    """A real model's embeddings of frequent words, written as GloVe writes its own."""
    vectors = WordVectors.from_embeddings(
        AutoModelForSequenceClassification.from_pretrained(factories.encoder()).bert, factories.tokenizer()
    )
    path = tmp_path_factory.mktemp("vectors") / "vectors.txt"
    lines = [
        f"{word} {' '.join(f'{x:.4f}' for x in row)}" for word, row in zip(vectors.words, vectors.unit, strict=True)
    ]
    path.write_text("\n".join(lines[:4000]) + "\nbroken 1 2\n", encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tinybert.utils.work_sharing.HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def augment(command, files, glove):
    """Runs the command on a hundred rows."""

    def run(output, *more):
        flags = ("--input-file", files / "train.csv", "--output-file", output, "--word-vectors", glove, "--use-cpu")
        return command("augment", *flags, *more)

    return run


def test_rows_and_variants_are_written(augment, tmp_path):
    said = {}
    for ending, read in (("jsonl", Dataset.from_json), ("csv", Dataset.from_csv), ("parquet", Dataset.from_parquet)):
        output = tmp_path / "out" / f"augmented.{ending}"
        result = augment(output, "--n", 3)
        assert result.code == 0, result
        rows = read(str(output), cache_dir=str(tmp_path / "cache"))
        said[ending] = [(row["text"], row["intent"], bool(row["augmented"])) for row in rows]
        assert f"variants: {sum(row[2] for row in said[ending])}" in result.out
        assert "originals: 100" in result.out
    assert said["jsonl"] == said["csv"] == said["parquet"]
    assert sum(not row[2] for row in said["csv"]) == 100
    assert [entry.name for entry in output.parent.glob("*.partial*")] == []


def test_a_teacher_drops_variants(augment, teacher_path, tmp_path):
    output = tmp_path / "augmented.jsonl"
    result = augment(output, "--p", 0.9, "--n", 3, "--filter-teacher", teacher_path)
    assert result.code == 0, result
    dropped = int(result.out.rpartition("dropped: ")[2])
    assert dropped > 0
    assert len(output.read_text().splitlines()) == 100 + int(result.out.partition("variants: ")[2].split()[0])


def test_the_augmented_file_trains(augment, command, files, teacher_path, student_shape, tmp_path):
    augmented = tmp_path / "augmented.csv"
    assert augment(augmented, "--n", 2).code == 0
    result = command(
        "distill",
        "--teacher",
        teacher_path,
        "--student",
        student_shape,
        "--train-file",
        augmented,
        "--eval-file",
        files / "eval.csv",
        "--max-steps",
        2,
        "--per-device-train-batch-size",
        4,
        "--output-dir",
        tmp_path / "student",
        "--use-cpu",
        "--disable-tqdm",
        "True",
    )
    assert result.code == 0, result


def test_two_processes_share_the_work_and_one_writes(augment, processes, files, glove, tmp_path):
    """As `accelerate launch` starts them; the result equals one process's."""
    assert augment(tmp_path / "one.jsonl", "--n", 3).code == 0
    flags = ["--input-file", files / "train.csv", "--output-file", tmp_path / "two.jsonl", "--word-vectors", glove]
    ranks = processes.run_ranks(2, "-c", WITH_A_HOME, tmp_path / "two", "augment", *flags, "--n", 3, "--use-cpu")
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    assert ["originals: 100" in rank.stdout for rank in ranks] == [True, False]
    assert ["Finding candidates:   0%" in rank.stderr for rank in ranks] == [True, True]
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--output-file": "out.xlsx"}, "--output-file must end in .jsonl"),
        ({"--input-file": "gone.csv"}, "gone.csv does not exist"),
        ({"--word-vectors": "gone.txt"}, "The word vectors gone.txt do not exist"),
        ({"--word-vectors": None}, "Give a masked language model with its tokenizer, word vectors, or both"),
        ({"--text-column": "body"}, "got body, and the columns that hold texts"),
        ({"--text-pair-column": "intent"}, "--text-pair-column needs --text-column"),
        ({"--stop-words": "klingon"}, "no stop words for 'klingon'"),
        ({"--task": "sst-2"}, "no settings for 'sst-2'"),
        ({"--p": "1.5"}, "p above 0 and at most 1"),
    ],
)
def test_mistakes_are_said_in_a_sentence(changed, message, command, files, glove, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"--input-file": files / "train.csv", "--output-file": "out.csv", "--word-vectors": glove} | changed
    result = command("augment", *(word for pair in flags.items() if pair[1] is not None for word in pair), "--use-cpu")
    assert result.code == 2
    assert message in result.error
    assert not list(tmp_path.glob("out*"))


def test_the_input_is_never_written_over(command, files, glove, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_bytes((files / "train.csv").read_bytes())
    for name, message in (("rows.csv", "is the input file"), ("folder.csv", "is a folder")):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        output = tmp_path / "folder.csv" / ".." / name
        result = command(
            "augment", "--input-file", rows, "--output-file", output, "--word-vectors", glove, "--use-cpu"
        )
        assert result.code == 2
        assert message in result.error
    assert rows.read_bytes() == (files / "train.csv").read_bytes()


def test_broken_lines_of_word_vectors_are_passed_over(augment, glove, tmp_path):
    lines = Path(glove).read_text(encoding="utf-8").splitlines()
    broken = tmp_path / "broken.txt"
    bad = ["good", "film 0.1 oops", "", "movie " + "nan " * 50]
    broken.write_text("\n".join([*lines[:700], *bad, *lines[700:]]), encoding="utf-8")
    with broken.open("ab") as file:
        file.write(b"\nnoise \xff\xfe 1\n")
    whole, result = augment(tmp_path / "whole.csv"), augment(tmp_path / "out.csv", "--word-vectors", broken)
    assert (whole.code, result.code) == (0, 0), result
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_a_file_without_a_vector_is_refused(augment, files, tmp_path):
    result = augment(tmp_path / "out.csv", "--word-vectors", files / "train.csv")
    assert result.code == 2
    assert "train.csv" in result.error
    assert not (tmp_path / "out.csv").exists()


def test_a_model_without_the_head_is_refused(command, files, encoder, tmp_path):
    result = command(
        "augment",
        "--input-file",
        files / "train.csv",
        "--output-file",
        tmp_path / "out.csv",
        "--masked-lm",
        encoder,
        "--use-cpu",
    )
    assert result.code == 2
    assert "has no trained masked language modelling head" in result.error
    assert "bert-base-uncased" in result.error
