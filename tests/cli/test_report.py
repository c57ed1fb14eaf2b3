"""`hf-tinybert report` of a real run."""

from __future__ import annotations

import json
import re

import factories
import pytest
import tiny_models

pytest.importorskip("matplotlib")


def test_of_a_run_with_its_teacher_and_data(command, distilled, teacher_path, files, tmp_path):
    data = ["--test-file", files / "test.csv", "--eval-file", files / "eval.csv"]
    page = tmp_path / "report.html"
    done = command("report", distilled[0], "--teacher", teacher_path, *data, "--output", page, "--use-cpu")
    assert done.code == 0, done
    text = page.read_text(encoding="utf-8")
    assert len(re.findall("data:image/png", text)) == 4
    assert done.out.strip().endswith("report.html")
    # Shares of the sixty test cases, and of both models what `distill` measured.
    shares = re.search(r"Both correct ([\d.]+)%.*teacher ([\d.]+)%.*student ([\d.]+)%.*neither ([\d.]+)%", text)
    both, above, below, _ = (float(share) / 100 for share in shares.groups())
    summary = json.loads((distilled[0] / "summary.json").read_text(encoding="utf-8"))
    teacher, student = (summary[role]["score"] for role in ("teacher", "student"))
    assert both + above == pytest.approx(teacher, abs=2e-3)
    assert both + below == pytest.approx(student, abs=2e-3)


def test_no_texts_of_the_data(command, distilled, teacher_path, files, tmp_path):
    page, flags = tmp_path / "report.md", ["--mistakes", "0", "--use-cpu"]
    done = command(
        "report", distilled[0], "--teacher", teacher_path, "--test-file", files / "test.csv", *flags, "--output", page
    )
    assert done.code == 0, done
    text = page.read_text(encoding="utf-8")
    assert "Both correct" in text
    assert "Mistakes of" not in text


def test_without_a_teacher_what_the_run_saved(command, distilled, tmp_path):
    done = command("report", distilled[0], "--output", tmp_path / "report.md")
    assert done.code == 0, done
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.count("![") == 2
    assert "Both correct" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Nothing to report on: name the output folders"),
        (["nowhere"], "nowhere is not the folder of a student"),
        (["RUN", "--eval-file", "x.csv"], "give --teacher as well"),
        (["RUN", "--output", "page.pdf"], "The file name of a report ends with .html or .md"),
        (["RUN", "--mistakes", "-1"], "--mistakes is a number of at least 0, got -1."),
        (["RUN", "RUN"], "The same run is named twice."),
        (["RUN", "--teacher", "./none"], "The teacher folder none does not exist."),
    ],
)
def test_wrong_calls(command, distilled, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    done = command("report", *[distilled[0] if flag == "RUN" else flag for flag in flags])
    assert done.code == 2
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_of_another_teacher(command, distilled, tmp_path):
    """Which has fewer layers than the student learnt from."""
    tiny_models.model(num_hidden_layers=2, vocab_size=len(factories.tokenizer())).save_pretrained(tmp_path / "small")
    factories.tokenizer().save_pretrained(tmp_path / "small")
    done = command("report", distilled[0], "--teacher", tmp_path / "small", "--output", tmp_path / "report.md")
    assert done.code == 2
    assert "learnt from a teacher with at least 4 layers; the one that --teacher names has 2" in done.err
