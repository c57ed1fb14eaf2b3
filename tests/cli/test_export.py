"""`hf-tinybert export` on real requests."""

from __future__ import annotations

import json
from importlib import resources

import pytest

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.also_transformers("4.57")
DEMO = resources.files("hf_tinybert.data") / "demo_data"


DATA = ["--eval-file", str(DEMO / "test.csv"), "--label-column", "intent"]


def test_it_measures_what_it_wrote(command, distilled, files, tmp_path):
    flags = ["--quantize", "int8", "--optimize", "none", "--max-drop", "0.1", "--test-file", files / "test.csv"]
    done = command("export", distilled[0], "--output-dir", tmp_path, *flags)
    assert done.code == 0, done
    lines = [line for line in done.out.splitlines() if line.startswith("test accuracy")]
    values = {line.rsplit(" in ", 1)[1]: line.split()[2] for line in lines}
    assert list(values) == ["PyTorch", "model.onnx", "model_quantized.onnx"]
    summary = json.loads((distilled[0] / "summary.json").read_text(encoding="utf-8"))
    assert values["PyTorch"] == values["model.onnx"] == f"{summary['student']['score']:.4f}"
    assert float(values["model_quantized.onnx"]) >= float(values["PyTorch"]) - 0.1
    assert sorted(path.name for path in (tmp_path / "onnx").glob("*.onnx")) == ["model.onnx", "model_quantized.onnx"]


@pytest.mark.slow
def test_of_what_has_lost_too_much_nothing_is_written(command, teacher_folder, tmp_path):
    done = command("export", teacher_folder, "--output-dir", tmp_path, "--max-drop", "-1", *DATA)
    assert done.code == 2
    assert "more than --max-drop allows (-1): nothing was written" in done.error
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere/at/all"], "nowhere/at/all"),
        (["--quantize", "int3"], "invalid choice"),
        (["--eval-file", "none.csv"], "none.csv"),
        (["--eval-file", str(DEMO / "test.csv"), "--max-length", "600"], "takes 1 to 512 tokens"),
        (["--format", "openvino", "--quantize", "auto"], "--format openvino takes --quantize int8, and neither"),
        (["--quantize", "int8-static"], "No data: give --train-file"),
        (["--threads", "0"], "--threads must be at least 1, got 0."),
    ],
)
def test_wrong_calls(command, teacher_folder, tmp_path, flags, message):
    given = flags if not flags[0].startswith("-") else [teacher_folder, *flags]
    done = command("export", *given, "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert message in done.error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
