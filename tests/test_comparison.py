from __future__ import annotations

import json

import pytest
import tiny_models
import torch
import workbench

from hf_tinybert.comparison import Comparison, ModelFacts, bytes_on_disk, compare, latency

TEACHER = ModelFacts("teacher", 22_800_000, 10_800_000, 90_900_000, 6.0, 0.9)
STUDENT = ModelFacts("student", 11_400_000, 2_700_000, 45_500_000, 2.4, 0.855)
UNKNOWN = ModelFacts("nobody", 22_800_000, 10_800_000)


def test_the_table():
    assert str(Comparison("accuracy", "test", 32, 1, (TEACHER, STUDENT))).splitlines() == [
        "                     teacher        student",
        "-" * 43,
        "test accuracy         0.9000         0.8550",
        "share kept            100.0%          95.0%",
        "parameters             22.8M  11.4M (1/2.0)",
        "  in the layers        10.8M   2.7M (1/4.0)",
        "file size            90.9 MB        45.5 MB",
        "latency (32 tokens)  6.00 ms        2.40 ms",
        "speed-up                1.0x           2.5x",
    ]


def test_what_was_not_measured_is_a_dash_and_no_line_ends_in_blanks():
    lines = str(Comparison("accuracy", "test", 32, 1, (TEACHER, UNKNOWN, STUDENT))).splitlines()
    cells = {line[:19].strip(): line[19:].split() for line in lines[2:]}
    assert cells["test accuracy"] == ["0.9000", "-", "0.8550"]
    assert cells["share kept"] == ["100.0%", "-", "95.0%"]
    assert cells["speed-up"] == ["1.0x", "-", "2.5x"]
    assert all(line == line.rstrip() for line in lines)
    unmeasured = str(Comparison("accuracy", "test", 32, 1, (UNKNOWN, TEACHER))).splitlines()
    assert unmeasured[3].split() == ["share", "kept", "-", "-"]


def test_a_score_of_zero_is_a_score():
    student = ModelFacts("student", 1, 1, 1, 1.0, 0.0)
    text = str(Comparison("accuracy", "test", 32, 1, (TEACHER, student)))
    assert "0.0000" in text
    assert "0.0%" in text


def test_saves_as_json_whole_or_not_at_all(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text("old")
    Comparison("pearson", "eval", 16, 2, (TEACHER, UNKNOWN)).save(path)
    saved = json.loads(path.read_text())
    assert saved == {
        "metric": "pearson",
        "split": "eval",
        "length": 16,
        "threads": 2,
        "models": [vars(TEACHER), vars(UNKNOWN)],
    }
    assert [p.name for p in tmp_path.iterdir()] == ["comparison.json"]
    with pytest.raises(TypeError):
        Comparison("pearson", "eval", 16, 2, (ModelFacts("bad", object(), 1),)).save(path)
    assert json.loads(path.read_text()) == saved


@pytest.mark.parametrize("projections", [0, 5, 300])
def test_the_file_size_is_that_of_the_weights_without_the_projections(projections, tmp_path):
    assert bytes_on_disk(tmp_path) is None
    for name, size in {"config.json": 11, "optimizer.pt": 13, "training_args.bin": 17}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert bytes_on_disk(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"x" * 300)
    (tmp_path / "distillation_projections.safetensors").write_bytes(b"x" * projections)
    assert bytes_on_disk(tmp_path) == 300
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 40)
    assert bytes_on_disk(str(tmp_path)) == 340


def test_file_size_of_the_old_format_and_of_a_hub_id(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 7)
    assert bytes_on_disk(tmp_path) == 7
    assert bytes_on_disk("somebody/bert-intents") is None


def test_latencies_are_positive_of_every_model_and_grow_with_its_depth():
    models = {"deep": tiny_models.model(num_hidden_layers=12).train(), "flat": tiny_models.model(num_hidden_layers=1)}
    found = latency(models, length=16, rounds=15, warm_up=3)
    assert found["deep"] > found["flat"] > 0
    assert not models["deep"].training


def test_of_real_models(teacher, teacher_folder, tmp_path):
    student = workbench.small_student(teacher)
    student.save_pretrained(tmp_path)
    models = {"teacher": teacher, "student": student}
    folders = {"teacher": teacher_folder, "student": str(tmp_path)}
    comparison = compare(models, {"teacher": 0.9}, folders, "accuracy", "test", length=8)
    teachers, students = comparison.models
    assert teachers.parameters == sum(p.numel() for p in teacher.parameters())
    # One layer of width d and feed-forward size f: 4 (d² + d) + 2 d f + f + d + 4 d.
    assert teachers.layer_parameters == 6 * (4 * (384**2 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384)
    assert students.layer_parameters == 3 * (4 * (192**2 + 192) + 2 * 192 * 768 + 768 + 192 + 4 * 192)
    assert students.bytes_on_disk == pytest.approx(4 * students.parameters, rel=0.01)
    assert (teachers.score, students.score) == (0.9, None)
    assert students.latency_ms < teachers.latency_ms
    assert comparison.threads == torch.get_num_threads()
