from __future__ import annotations

from importlib import resources
from pathlib import Path

import factories
import pytest
from transformers import AutoTokenizer

from hf_tinybert import tasks
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.export.score_check import ScoreCheck

DEMO = resources.files("hf_tinybert.data") / "demo_data"


@pytest.fixture
def check(teacher, teacher_folder):
    data = DataArguments(eval_file=str(DEMO / "test.csv"), label_column="intent")
    task = tasks.start("text-classification", teacher.config, data, training=False)
    return ScoreCheck(teacher, AutoTokenizer.from_pretrained(teacher_folder), task, max_drop=0.05)


def test_what_loses_too_much_is_refused(check, teacher, capsys):
    """An untrained student in the place of a file; the teacher itself has lost nothing."""
    weak = factories.small_student(teacher)
    weak.path = Path("model_quantized.onnx")
    message = r"model_quantized\.onnx has lost 0\.\d{4} of accuracy, more than --max-drop allows \(0\.05\): nothing"
    with pytest.raises(ValueError, match=message):
        check("int8", weak)
    teacher.path = Path("model.onnx")
    assert check("float32", teacher) == {"accuracy (eval)": check.reference}
    assert check.reference > 0.6
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(" in ", 1)[1] for line in lines] == ["model_quantized.onnx", "model.onnx"]


def test_vectors_are_refused(teacher, teacher_folder, tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\nhello\n")
    task = tasks.FeatureExtraction(DataArguments(eval_file=str(path)), training=False)
    with pytest.raises(ValueError, match="Vectors are not measured here"):
        ScoreCheck(teacher, AutoTokenizer.from_pretrained(teacher_folder), task)
