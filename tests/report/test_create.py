"""The page: what the runs left, in HTML with everything inside or in Markdown with pictures beside."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import unquote

import pytest
import torch

from hf_tinybert.benchmark.comparison import Comparison, ModelFacts
from hf_tinybert.report import Answers, LayerSimilarity, Mistake, make, read

pytest.importorskip("matplotlib")

TEACHER = ModelFacts("teacher", 22_700_000, 10_600_000, 90_900_000, 13.2, 0.9622)
STUDENT = ModelFacts("student", 14_400_000, 4_600_000, 57_600_000, 6.36, 0.8924)
HISTORY = [{"step": step, "loss_hidden_1": 1 / step, "loss_prediction": 2 / step} for step in (10, 20, 30)]


def run_folder(folder, name="mine", student=STUDENT, history=HISTORY, summary=True):
    path = folder / name
    path.mkdir(parents=True)
    known = {"layer_mapping": "0:0,1:3,2:6", "teacher": "sha256:0", "init": "random"}
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "tinybert": known}), encoding="utf-8")
    (path / "trainer_state.json").write_text(json.dumps({"log_history": history}), encoding="utf-8")
    if summary:
        Comparison("accuracy", "test", 32, 1, TEACHER, student, "Some CPU").save(path / "summary.json")
    return path


@pytest.fixture
def run(tmp_path):
    return read(run_folder(tmp_path))


def likeness():
    maps = {(1, 3): (torch.eye(3), torch.eye(3))}
    return {
        "mine": LayerSimilarity(torch.rand(3, 7, dtype=torch.float64), {1: 0.875}, ["[CLS]", "stop", "[SEP]"], maps)
    }


def answers():
    mistakes = [Mistake("a | b < c\nd", "yes", "no", 0.97)]
    return {"mine": Answers(0.5, 0.25, 0.125, 0.125, mistakes)}


def test_html_holds_everything(run, tmp_path):
    path = make([run], tmp_path / "new" / "report.html", likeness(), answers(), "stop")
    page = path.read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 4
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing is fetched
    assert "<td>mine</td><td>0.8924</td><td>92.7%</td><td>14.4M</td><td>57.6 MB</td><td>6.36 ms</td>" in page
    assert "<td>teacher</td><td>0.9622</td><td>-</td>" in page
    assert "0: 0, 1: 3, 2: 6." in page
    assert "layer 1 87.5%" in page
    assert "Both correct 50.0% (green), only the teacher 25.0% (red)" in page
    assert "a | b &lt; c\nd" in page
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_markdown_has_its_pictures_beside(run, tmp_path):
    path = make([run], tmp_path / "my report.md", likeness(), answers(), "stop")
    page = path.read_text(encoding="utf-8")
    names = re.findall(r"\]\((my%20report_pictures/[^) ]+)\)", page)
    assert len(names) == 4
    assert all((tmp_path / unquote(name)).read_bytes().startswith(b"\x89PNG") for name in names)
    assert "| mine | 0.8924 | 92.7% | 14.4M | 57.6 MB | 6.36 ms |" in page
    assert "| a \\| b < c d | yes | no | 0.97 |" in page


def test_what_was_not_measured_is_left_out(tmp_path):
    bare = read(run_folder(tmp_path, "bare", history=[], summary=False))
    page = make([bare], tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## bare" in page
    assert "![" not in page
    assert "None" not in page
    unknown = ModelFacts("student", 1_000_000, 500_000)
    half = read(run_folder(tmp_path, "half", student=unknown))
    page = make([half], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<td>half</td><td>-</td><td>-</td><td>1.0M</td><td>-</td><td>-</td>" in page
    assert "None" not in page


def test_a_run_without_held_out_data_has_sizes_and_latencies(tmp_path):
    folder = run_folder(tmp_path, summary=False)
    facts = [ModelFacts(name, 1_000_000, 500_000, 4_000_000, 2.0) for name in ("teacher", "student")]
    Comparison("", "", 32, 1, *facts, "Some CPU").save(folder / "summary.json")
    page = make([read(folder)], tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| | score | score retained |" in page
    assert "| mine | - | - | 1.0M | 4.0 MB | 2.00 ms |" in page


def test_several_runs_are_points_of_one_picture(tmp_path):
    other = ModelFacts("student", 5_000_000, 500_000, 20_000_000, 3.0, 0.8)
    found = [read(run_folder(tmp_path, "a")), read(run_folder(tmp_path, "b", student=other))]
    page = make(found, tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.count("size and latency](") == 1
    assert page.index("| a |") < page.index("| b |")
    assert "| b | 0.8000 | 83.1% |" in page


def test_pages_of_other_kinds_and_folders_of_no_run(run, tmp_path):
    with pytest.raises(ValueError, match=r"ends with \.html or \.md, got 'report\.pdf'"):
        make([run], tmp_path / "report.pdf")
    with pytest.raises(ValueError, match=r"nowhere is not the folder of a student"):
        read(tmp_path / "nowhere")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"neither summary\.json nor trainer_state\.json"):
        read(tmp_path / "model")
    for summary in ('{"accuracy": 0.9}', '{"teacher": {"name": "x", "taste": 1}, "student": {}}'):
        (tmp_path / "model" / "summary.json").write_text(summary, encoding="utf-8")
        with pytest.raises(ValueError, match=r"is not one that this version of `hf-tinybert distill` saved"):
            read(tmp_path / "model")
    (tmp_path / "model" / "summary.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"summary\.json is damaged: expected a JSON object, got list"):
        read(tmp_path / "model")


def test_runs_that_were_measured_on_different_things(tmp_path):
    first = read(run_folder(tmp_path, "a"))
    folder = run_folder(tmp_path, "b")
    Comparison("f1", "eval", 32, 1, TEACHER, STUDENT).save(folder / "summary.json")
    message = "make a report of each: a: test accuracy, 32 tokens; b: eval f1, 32 tokens"
    with pytest.raises(ValueError, match=message):
        make([first, read(folder)], tmp_path / "report.md")
    assert not (tmp_path / "report.md").exists()


def test_teachers_of_their_own(tmp_path):
    better = ModelFacts("teacher", 110_000_000, 85_000_000, 438_000_000, 40.0, 0.97)
    folder = run_folder(tmp_path, "b")
    Comparison("accuracy", "test", 32, 1, better, STUDENT, "Some CPU").save(folder / "summary.json")
    page = make([read(run_folder(tmp_path, "a")), read(folder)], tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| teacher of a | 0.9622 |" in page
    assert "| teacher of b | 0.9700 |" in page
    assert "| b | 0.8924 | 92.0% |" in page


def test_layers_that_were_not_matched_are_not_said_to_be(tmp_path):
    folder = run_folder(tmp_path)
    known = {"layer_mapping": "0:0,1:3", "phases": "prediction"}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "tinybert": known}), encoding="utf-8")
    assert read(folder).mapping is None
