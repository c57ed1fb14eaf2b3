from __future__ import annotations

import csv

import factories
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def cells(out: str, name: str) -> list[str]:
    return [line.split()[-1] for line in out.splitlines() if line.startswith(name)]


def read(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def accuracy(folder, rows) -> float:
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    gold = torch.tensor([model.config.label2id[row["intent"]] for row in rows])
    with torch.no_grad():
        return float((model(**inputs).logits.argmax(-1) == gold).float().mean())


def test_every_named_split_is_measured(command, teacher_path, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--eval-file", files / "eval.csv", "--test-file", files / "test.csv"]
    result = command("evaluate", "--model", teacher_path, *flags, "--use-cpu")
    assert result.code == 0, result
    for split in ("eval", "test"):
        assert cells(result.out, f"{split} accuracy") == [
            f"{accuracy(teacher_path, read(files / f'{split}.csv')):.4f}"
        ]
    model = factories.load(str(teacher_path))
    assert cells(result.out, "parameters") == [f"{model.num_parameters() / 1e6:.1f}M"] * 2
    assert not list(tmp_path.iterdir())


def test_the_student_is_measured_as_distill_did(command, distilled, files):
    folder, printed = distilled
    result = command(
        "evaluate", "--model", folder, "--test-file", files / "test.csv", "--max-length", "48", "--use-cpu"
    )
    assert result.code == 0, result
    assert cells(result.out, "test accuracy") == cells(printed.out, "test accuracy")


def test_the_batch_size_changes_nothing(command, teacher_path, files):
    flags = ["--model", teacher_path, "--eval-file", files / "eval.csv", "--use-cpu"]
    result = command("evaluate", *flags, "--per-device-eval-batch-size", 7)
    assert cells(result.out, "eval accuracy") == [f"{accuracy(teacher_path, read(files / 'eval.csv')):.4f}"]


def test_a_file_with_some_of_the_classes_in_another_order(command, teacher_path, files, tmp_path):
    rows = [row for row in read(files / "test.csv") if row["intent"] in ("weather", "billing", "lights")][::-1]
    path = tmp_path / "some.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["intent", "text"])
        writer.writeheader()
        writer.writerows(rows)
    result = command("evaluate", "--model", teacher_path, "--test-file", path, "--use-cpu")
    assert result.code == 0, result
    assert cells(result.out, "test accuracy") == [f"{accuracy(teacher_path, rows):.4f}"]


def test_only_training_data_was_named(command, teacher_path, files):
    result = command("evaluate", "--model", teacher_path, "--train-file", files / "train.csv")
    assert result.code == 2
    assert "Nothing to evaluate on: give --eval-file or --test-file" in result.err


def test_a_local_folder_as_data_set(command, teacher_path, files, tmp_path):
    (tmp_path / "validation.csv").write_bytes((files / "eval.csv").read_bytes())
    (tmp_path / "train.csv").write_bytes((files / "train.csv").read_bytes())
    result = command("evaluate", "--model", teacher_path, "--dataset", tmp_path, "--use-cpu")
    assert result.code == 0, result
    assert cells(result.out, "eval accuracy") == [f"{accuracy(teacher_path, read(files / 'eval.csv')):.4f}"]
    assert "train accuracy" not in result.out
