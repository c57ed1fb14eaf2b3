"""The demo, once quickly and once (slow) as it is meant."""

from __future__ import annotations

import csv
import json
from collections import Counter
from importlib import resources

import pytest

from hf_tinybert.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


def rows(split):
    with (resources.files("hf_tinybert") / "demo_data" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
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
    assert "share kept" in output
    return summary["models"]


@pytest.mark.one_world("4.57")
def test_a_short_demo_goes_all_the_way(tmp_path, capsys):
    teacher, student = run(tmp_path / "demo", capsys, "--teacher-epochs", "1", "--student-epochs", "1")
    assert student["layer_parameters"] * 2 < teacher["layer_parameters"]


@pytest.mark.slow
def test_the_demo_shows_what_it_promises(tmp_path, capsys):
    teacher, student = run(tmp_path / "demo", capsys)
    assert teacher["score"] > 0.8
    assert student["score"] > 0.9 * teacher["score"]
    assert student["latency_ms"] * 2 < teacher["latency_ms"]
