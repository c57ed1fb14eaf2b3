"""`hf-tinybert export` on real requests."""

from __future__ import annotations

from importlib import resources

import pytest

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.one_world("4.57")

DEMO = resources.files("hf_tinybert") / "demo_data"


@pytest.fixture(scope="module")
def model(command, body, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    flags = [
        "--train-file",
        str(DEMO / "train.csv"),
        "--label-column",
        "intent",
        "--use-cpu",
        "--disable-tqdm",
        "True",
    ]
    quick = ["--max-steps", "30", "--learning-rate", "3e-4", "--output-dir", folder / "model"]
    done = command("finetune", "--model", body, *flags, *quick)
    assert done.code == 0, done
    return folder / "model"


def test_it_measures_what_it_wrote(command, model, tmp_path):
    data = ["--eval-file", str(DEMO / "test.csv"), "--label-column", "intent"]
    done = command("export", model, "--output-dir", tmp_path, "--quantize", "int8", "--max-drop", "0.05", *data)
    assert done.code == 0, done
    lines = [line for line in done.out.splitlines() if line.startswith("eval accuracy")]
    values = {line.rsplit(" in ", 1)[1]: float(line.split()[2]) for line in lines}
    assert list(values) == ["PyTorch", "model.onnx", "model_quantized.onnx"]
    assert values["PyTorch"] == values["model.onnx"] > 0.3
    assert abs(values["model_quantized.onnx"] - values["PyTorch"]) <= 0.05
    assert (tmp_path / "onnx" / "model_quantized.onnx").is_file()


def test_what_has_lost_too_much_is_said(command, model, tmp_path):
    data = ["--eval-file", str(DEMO / "test.csv"), "--label-column", "intent"]
    done = command("export", model, "--output-dir", tmp_path, "--max-drop", "-1", *data)
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
def test_wrong_calls(command, model, tmp_path, flags, message):
    given = flags if not flags[0].startswith("-") else [model, *flags]
    done = command("export", *given, "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert message in done.error
    assert not (tmp_path / "out").exists() or not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
