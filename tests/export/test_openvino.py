"""OpenVINO files say what the models say, where optimum-intel is installed, which `make test` does not do.

pip install "optimum-intel[openvino]"
"""

from __future__ import annotations

import importlib.util

import factories
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hf_tinybert.cli import main
from hf_tinybert.export import export_openvino
from hf_tinybert.export.openvino import OpenvinoModel

installed = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not installed, reason="optimum-intel is not installed")
HEADS = {
    "text-classification": (AutoModelForSequenceClassification, {"num_labels": 3}),
    "token-classification": (AutoModelForTokenClassification, {"num_labels": 5}),
    "question-answering": (AutoModelForQuestionAnswering, {}),
    "fill-mask": (AutoModelForMaskedLM, {}),
    "feature-extraction": (AutoModel, {}),
}


def student(encoder, folder, task="text-classification"):
    auto, kwargs = HEADS[task]
    factories.small_student(auto.from_pretrained(encoder, **kwargs), init="teacher").save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return auto


@needs_openvino
@pytest.mark.parametrize("task", HEADS)
def test_the_files_say_what_the_model_says(encoder, tmp_path, task):
    auto = student(encoder, tmp_path / "student", task)
    done = export_openvino(tmp_path / "student", tmp_path / "out")
    assert done.files["fp32"].difference <= 1e-4
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"openvino/openvino_model.xml", "openvino/openvino_model.bin", "config.json", "tokenizer.json"} <= names
    model = auto.from_pretrained(tmp_path / "student").eval()
    inputs = AutoTokenizer.from_pretrained(encoder)(
        ["one", "two words and some more"], padding=True, return_tensors="pt"
    )
    found = OpenvinoModel(tmp_path / "out" / "openvino", model.config, task, exact=True)(**inputs)
    with torch.no_grad():
        expected = model(**inputs)
    real = inputs["attention_mask"].bool()
    for name, value in found.items():
        own = expected[name]
        if own.shape[:2] == real.shape:
            own, value = own[real], value[real]
        torch.testing.assert_close(value, own, rtol=0, atol=1e-4)


@needs_openvino
def test_int8_is_a_quarter_of_the_size(encoder, tmp_path):
    student(encoder, tmp_path / "student")
    plain = export_openvino(tmp_path / "student", tmp_path / "plain").files["fp32"]
    small = export_openvino(tmp_path / "student", quantize="int8").files["int8"]
    assert small.size <= 0.45 * plain.size
    assert plain.difference < small.difference < 0.3
    assert (tmp_path / "student" / "openvino" / "openvino_model.xml").is_file()


@needs_openvino
def test_what_is_too_far_off_leaves_nothing(encoder, tmp_path):
    student(encoder, tmp_path / "student")
    with pytest.raises(ValueError, match="more than the tolerance of 0: nothing was written"):
        export_openvino(tmp_path / "student", tmp_path / "out", tolerance=0)

    def check(kind, exported):
        raise ValueError(f"not {kind}")

    with pytest.raises(ValueError, match="not fp32"):
        export_openvino(tmp_path / "student", tmp_path / "out", check=check)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@needs_openvino
def test_the_command(encoder, tmp_path, capsys):
    student(encoder, tmp_path / "student")
    assert main(["export", str(tmp_path / "student"), "--format", "openvino"]) == 0
    assert "openvino/openvino_model.xml" in capsys.readouterr().out


@pytest.mark.skipif(installed, reason="it is installed")
def test_without_optimum_intel_it_says_what_to_install(encoder, tmp_path, capsys):
    student(encoder, tmp_path / "student")
    with pytest.raises(ImportError, match=r"pip install 'optimum-intel\[openvino\]'"):
        export_openvino(tmp_path / "student", tmp_path / "out")
    assert main(["export", str(tmp_path / "student"), "--format", "openvino"]) == 2
    assert "pip install 'optimum-intel[openvino]'" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="For OpenVINO, quantize must be None or int8; got 'auto'"):
        export_openvino(tmp_path, quantize="auto")
    with pytest.raises(ValueError, match="is no folder: say with output_dir"):
        export_openvino("some/hub-id")
