from __future__ import annotations

import json

import factories
import pytest
import torch

from hf_tinybert.benchmark.comparison import Benchmark, Comparison, ModelFacts, compare, compare_trained, table
from hf_tinybert.benchmark.costs import ModelCost, Plan, Timing
from hf_tinybert.evaluation.metrics import accuracy

TEACHER = ModelFacts("teacher", 22_800_000, 10_800_000, 90_900_000, 6.0, 0.9)
STUDENT = ModelFacts("student", 11_400_000, 2_700_000, 45_500_000, 2.4, 0.855)
UNKNOWN = ModelFacts("nobody", 22_800_000, 10_800_000)


def test_the_table():
    assert str(Comparison("accuracy", "test", 32, 1, TEACHER, STUDENT)).splitlines() == [
        "                     teacher        student",
        "-" * 43,
        "test accuracy         0.9000         0.8550",
        "score retained        100.0%          95.0%",
        "parameters             22.8M  11.4M (1/2.0)",
        "  in the layers        10.8M   2.7M (1/4.0)",
        "file size            90.9 MB        45.5 MB",
        "latency (32 tokens)  6.00 ms        2.40 ms",
        "speed-up                1.0x           2.5x",
    ]


def test_of_one_model_there_is_nothing_to_compare():
    lines = table([TEACHER], "accuracy", "test", 32).splitlines()
    assert [line.split("  ")[0] for line in lines[2:4]] == ["test accuracy", "parameters"]
    assert lines[-1].startswith("latency")


def test_what_was_not_measured_is_a_dash_and_no_line_ends_in_blanks():
    lines = table([TEACHER, UNKNOWN, STUDENT], "accuracy", "test", 32).splitlines()
    cells = {line[:19].strip(): line[19:].split() for line in lines[2:]}
    assert cells["test accuracy"] == ["0.9000", "-", "0.8550"]
    assert cells["score retained"] == ["100.0%", "-", "95.0%"]
    assert cells["speed-up"] == ["1.0x", "-", "2.5x"]
    assert all(line == line.rstrip() for line in lines)
    unmeasured = str(Comparison("", "", 32, 1, UNKNOWN, TEACHER)).splitlines()
    assert unmeasured[2].split() == ["score", "-", "0.9000"]
    assert unmeasured[3].split() == ["score", "retained", "-", "-"]


def test_a_score_of_zero_is_a_score():
    student = ModelFacts("student", 1, 1, 1, 1.0, 0.0)
    text = str(Comparison("accuracy", "test", 32, 1, TEACHER, student))
    assert "0.0000" in text
    assert "0.0%" in text


def test_saves_as_json_whole_or_not_at_all(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text("old")
    comparison = Comparison("pearson", "eval", 16, 2, TEACHER, UNKNOWN)
    comparison.save(path)
    saved = json.loads(path.read_text())
    assert saved == {
        "metric": "pearson",
        "split": "eval",
        "length": 16,
        "threads": 2,
        "teacher": vars(TEACHER),
        "student": vars(UNKNOWN),
        "machine": "",
        "start": {},
    }
    assert Comparison.from_saved(saved) == comparison
    assert [p.name for p in tmp_path.iterdir()] == ["comparison.json"]
    with pytest.raises(TypeError):
        Comparison("pearson", "eval", 16, 2, TEACHER, ModelFacts("bad", object(), 1)).save(path)
    assert json.loads(path.read_text()) == saved


COSTS = (
    ModelCost("teacher", "pytorch", False, 22_700_000, {32: 689_600_000, 128: 2_900_000_000}, 90_900_000, False),
    ModelCost("student", "pytorch-int8", False, 9_000_000, {32: 99_000_000, 128: 410_000_000}, 33_300_000, True),
    ModelCost("hub", "onnxruntime", True, 100, {32: 1_000, 128: 1_000_000}, None, False),
)
TIMES = {("teacher", 1): (6.0, 6.7), ("student", 1): (2.4, 3.0), ("hub", 1): (1.0, 1.0)} | {
    ("teacher", 128): (400.0, 410.5),
    ("student", 128): (100.0, 120.0),
    ("hub", 128): (0.5, 0.5),
}


def benchmark_of_three(**changes):
    timings = tuple(
        Timing(
            cost.name,
            cost.runtime,
            2,
            batch,
            length,
            median,
            p95,
            1000 * batch / median,
            TIMES["teacher", key][0] / median,
        )
        for batch, length, key in ((1, 32, 1), (1, 128, 1), (32, 32, 128), (32, 128, 128))
        for cost in COSTS
        for median, p95 in [TIMES[cost.name, key]]
    )
    fields = {"plan": Plan(threads=(2,)), "costs": COSTS, "timings": timings, "baseline": COSTS[0].label} | changes
    return Benchmark(device="cpu", torch_version="2.9", transformers_version="4.57", **fields)


def test_the_tables_of_a_benchmark():
    lines = str(benchmark_of_three()).splitlines()
    assert lines[:16] == [
        "cpu, torch 2.9, transformers 4.57, float32",
        "30 rounds in turns after 5 of warm-up; speed-up against teacher, pytorch",
        "",
        "                                   parameters  FLOPs (32 tokens)  FLOPs (128 tokens)  file size",
        "-" * 96,
        "teacher, pytorch                       22.7 M            689.6 M           2,900.0 M    90.9 MB",
        "student, pytorch-int8                   9.0 M             99.0 M             410.0 M    33.3 MB*",
        "hub (random weights), onnxruntime       0.0 M              0.0 M               1.0 M          -",
        "* computed: there is no such file",
        "",
        "2 threads, batch of 1, 32 tokens    median      p95  sequences/s  speed-up",
        "-" * 74,
        "teacher, pytorch                   6.00 ms  6.70 ms        166.7      1.0x",
        "student, pytorch-int8              2.40 ms  3.00 ms        416.7      2.5x",
        "hub (random weights), onnxruntime  1.00 ms  1.00 ms      1,000.0      6.0x",
        "",
    ]
    assert [line.split("  ")[0] for line in lines if line.startswith("2 threads")] == [
        "2 threads, batch of 1, 32 tokens",
        "2 threads, batch of 1, 128 tokens",
        "2 threads, batch of 32, 32 tokens",
        "2 threads, batch of 32, 128 tokens",
    ]
    assert lines[-1].endswith("  0.50 ms    0.50 ms     64,000.0    800.0x")
    assert all(line == line.rstrip() for line in lines)


def test_a_benchmark_without_computed_sizes_has_no_footnote():
    timings = tuple(timing for timing in benchmark_of_three().timings if timing.name == "teacher")
    assert "computed" not in str(benchmark_of_three(costs=COSTS[:1], timings=timings))


def test_a_benchmark_saves_as_json_whole_or_not_at_all(tmp_path):
    path = tmp_path / "benchmark.json"
    path.write_text("old")
    benchmark_of_three().save(path)
    saved = json.loads(path.read_text())
    assert saved["plan"] == {"batch_sizes": [1, 32], "lengths": [32, 128], "threads": [2], "rounds": 30, "warm_up": 5}
    assert saved["costs"][0]["flops"] == {"32": 689_600_000, "128": 2_900_000_000}
    assert len(saved["timings"]) == 12
    with pytest.raises(TypeError):
        benchmark_of_three(costs=(object(),)).save(path)
    assert json.loads(path.read_text()) == saved
    assert [p.name for p in tmp_path.iterdir()] == ["benchmark.json"]


def test_of_real_models(teacher, teacher_folder, tmp_path):
    student = factories.small_student(teacher)
    student.save_pretrained(tmp_path)
    folders = (teacher_folder, str(tmp_path))
    comparison = compare(teacher, student, (0.9, None), folders, "accuracy", "test", length=8)
    teachers, students = comparison.teacher, comparison.student
    assert teachers.parameters == sum(p.numel() for p in teacher.parameters())
    # One layer of width d and feed-forward size f: 4 (d² + d) + 2 d f + f + d + 4 d.
    assert teachers.layer_parameters == 4 * (4 * (96**2 + 96) + 2 * 96 * 192 + 192 + 96 + 4 * 96)
    assert students.layer_parameters == 2 * (4 * (48**2 + 48) + 2 * 48 * 96 + 96 + 48 + 4 * 48)
    assert students.bytes_on_disk == pytest.approx(4 * students.parameters, rel=0.03)
    assert (teachers.score, students.score) == (0.9, None)
    assert students.latency_ms < teachers.latency_ms
    assert comparison.threads == torch.get_num_threads()


def test_of_a_trainer(teacher, tmp_path):
    """Scores, sizes and times of its two models; the metrics are saved as the Trainer saves them."""
    trainer = factories.trainer(factories.small_student(teacher), teacher, factories.arguments(tmp_path))
    trainer.compute_metrics = accuracy
    trainer.save_model()
    data = factories.household()["test"].select(range(60))
    comparison = compare_trained(trainer, data, "accuracy", "held")
    assert (comparison.metric, comparison.split) == ("accuracy", "held")
    assert comparison.teacher.score == trainer.evaluate_teacher(data)["teacher_accuracy"]
    assert comparison.student.score == trainer.evaluate(data)["eval_accuracy"]
    saved = json.loads((tmp_path / "held_results.json").read_text())
    assert saved["held_accuracy"] == comparison.student.score
    assert comparison.student.bytes_on_disk == (tmp_path / "model.safetensors").stat().st_size
    with pytest.raises(ValueError, match=r"compute_metrics gives no 'f1'; it gives loss, .*accuracy"):
        compare_trained(trainer, data, "f1", "held")
    unmeasured = compare_trained(trainer)
    assert (unmeasured.metric, unmeasured.teacher.score, unmeasured.student.score) == ("", None, None)
    assert unmeasured.student.parameters == comparison.student.parameters
