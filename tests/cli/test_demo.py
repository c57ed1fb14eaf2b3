"""The demo, once quickly and once (slow) as it is meant."""

from __future__ import annotations

import csv
import json
from collections import Counter
from importlib import resources

import pytest
from transformers import pipeline

from hf_tinybert.cli import demo, main

PNG = b"\x89PNG\r\n\x1a\n"


def rows(split):
    with (resources.files("hf_tinybert.data") / "demo_data" / f"{split}.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        return list(csv.DictReader(file))


def test_the_data_are_distinct_balanced_and_held_out():
    splits = {split: rows(split) for split in ("train", "eval", "test")}
    texts = [row["text"].lower() for split in splits.values() for row in split]
    assert len(texts) == len(set(texts)) >= 1000
    intents = Counter(row["intent"] for split in splits.values() for row in split)
    assert len(intents) == 12
    assert set(intents.values()) == {105}
    assert set(Counter(row["intent"] for row in splits["test"]).values()) == {25}
    openings = Counter(" ".join(text.split()[:3]) for text in texts)
    assert openings.most_common(1)[0][1] <= 10, "sentences made from a template"


def run(folder, capsys, *flags):
    assert main(["demo", "--output-dir", str(folder), *flags]) == 0
    summary = json.loads((folder / "student" / "summary.json").read_text())
    assert (folder / "comparison.png").read_bytes().startswith(PNG)
    output = capsys.readouterr().out
    assert output.count(" -> ") == 3
    assert "score retained" in output
    return summary["teacher"], summary["student"]


def test_the_steps_of_the_demo(command, encoder, student_shape, data_flags, tmp_path, monkeypatch):
    """On a hundred requests, by a small encoder: the commands, the table, the picture, and three answers."""
    monkeypatch.setattr(demo, "_body", lambda: encoder)
    monkeypatch.setattr(demo, "_data_flags", lambda: data_flags)
    flags = ["--student", student_shape, "--teacher-epochs", 1, "--student-epochs", 1]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    result = command("demo", "--output-dir", tmp_path, *flags)
    assert result.code == 0, result
    commands = [line.split() for line in result.out.splitlines() if line.startswith("$ hf-tinybert ")]
    finetune, distill = (words[2:5] for words in commands)
    assert (finetune, distill) == (["finetune", "--model", encoder], ["distill", "--teacher", str(teacher)])
    for words, epochs in zip(commands, ("1.0", "1.0"), strict=True):
        assert words[words.index("--num-train-epochs") + 1] == epochs
    assert [line for line in result.out.splitlines() if line.startswith("=== ")] == [
        "=== 1. Fine-tune the teacher: a pretrained MiniLM, 6 layers, 384 wide",
        f"=== 2. Distil it into {student_shape}",
        f'=== 3. Use it: pipeline("text-classification", model="{student}")',
    ]
    summary = json.loads((student / "summary.json").read_text())
    assert [summary[role]["name"] for role in ("teacher", "student")] == ["teacher", "student"]
    assert f"The student is in {student}" in result.out
    assert "score retained" in result.out
    assert f"The picture is {tmp_path / 'comparison.png'}" in result.out
    assert (tmp_path / "comparison.png").read_bytes().startswith(PNG)
    answer = pipeline("text-classification", model=str(student))
    for question in demo._QUESTIONS:
        best = answer(question)[0]
        assert f"  {question!r:55} -> {best['label']} ({best['score']:.2f})" in result.out.splitlines()


@pytest.mark.slow
def test_a_short_demo_goes_all_the_way(tmp_path, capsys):
    teacher, student = run(tmp_path / "demo", capsys, "--teacher-epochs", "1", "--student-epochs", "1")
    assert student["layer_parameters"] * 2 < teacher["layer_parameters"]


@pytest.mark.slow
def test_the_demo_shows_what_it_promises(tmp_path, capsys):
    teacher, student = run(tmp_path / "demo", capsys)
    assert teacher["score"] > 0.8
    assert student["score"] > 0.9 * teacher["score"]
    # The student needs 1/2.3 of the operations; from 1.9 to 2.2 times faster was measured, by machine and its load.
    assert student["latency_ms"] * 1.5 < teacher["latency_ms"]
