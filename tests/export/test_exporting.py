"""ONNX files say what the models say, in both worlds and opened by either."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hf_tinybert import create_student
from hf_tinybert.export import export_onnx, tracing
from hf_tinybert.export.session import OnnxModel

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
HEADS = {
    "text-classification": (AutoModelForSequenceClassification, {"num_labels": 3}, ["logits"]),
    "token-classification": (AutoModelForTokenClassification, {"num_labels": 5}, ["logits"]),
    "question-answering": (AutoModelForQuestionAnswering, {}, ["start_logits", "end_logits"]),
    "fill-mask": (AutoModelForMaskedLM, {}, ["logits"]),
    "feature-extraction": (AutoModel, {}, ["last_hidden_state"]),
}
OPEN = """
import json, sys
from optimum.onnxruntime import {cls}
from transformers import AutoTokenizer
folder = sys.argv[1]
texts = ["turn on the lights", "what is the weather like"]
inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
model = {cls}.from_pretrained(folder, subfolder="onnx", file_name="model.onnx")
print("ANSWER", json.dumps(model(**inputs)[0].tolist()))
"""


@pytest.fixture(scope="module", params=list(HEADS))
def exported(request, body, tmp_path_factory):
    """Task, folder of the student, and what was exported of it elsewhere."""
    auto, kwargs, _ = HEADS[request.param]
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    create_student(auto.from_pretrained(body, **kwargs), "tinybert-3l-192d").save_pretrained(folder)
    AutoTokenizer.from_pretrained(body).save_pretrained(folder)
    (folder / "README.md").write_text("stays", encoding="utf-8")
    done = export_onnx(folder, folder / "exported", quantize="int8")
    return request.param, folder, done


def test_the_file_says_what_the_model_says(exported, body):
    task, folder, done = exported
    auto, _, outputs = HEADS[task]
    assert done.exporter == ("optimum" if tracing.has_optimum() else "torch")
    assert done.differences["fp32"] <= 1e-4
    model = auto.from_pretrained(folder).eval()
    found = OnnxModel(done.folder / "onnx" / "model.onnx", model.config)
    assert found.inputs == ["input_ids", "attention_mask", "token_type_ids"]
    assert found.outputs == outputs
    shapes = {value.name: value.shape for value in found.session.get_inputs()}
    assert set(map(tuple, shapes.values())) == {("batch_size", "sequence_length")}
    texts = ["one", "a much longer text than the other one, with some words that are not in it", "two words"]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        own = model(**inputs)
    real = inputs["attention_mask"].bool()
    for name in outputs:
        mine, theirs = own[name], found(**inputs)[name]
        if mine.shape[:2] == real.shape:
            mine, theirs = mine[real], theirs[real]
        torch.testing.assert_close(theirs, mine, rtol=0, atol=1e-4)


def test_a_quantised_file_is_small_and_near(exported):
    _, _, done = exported
    assert done.sizes["int8"] <= 0.3 * done.sizes["fp32"]
    assert done.differences["fp32"] < done.differences["int8"] < 0.3


def test_configuration_and_tokenizer_lie_beside(exported):
    _, _, done = exported
    names = {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}
    assert {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model_quantized.onnx"} <= names
    assert names - {"vocab.txt", "special_tokens_map.json"} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
    }


def test_optimum_opens_it(exported):
    """In the world that has Optimum's ONNX Runtime models, whichever world the file is from."""
    task, folder, done = exported
    if task in ("token-classification", "fill-mask"):
        pytest.skip("as text classification")
    here = tracing.has_optimum()
    python = Path(sys.executable) if here else ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"the other world's environment is not at {python}; `make test` makes both")
    cls = HEADS[task][0].__name__.replace("Auto", "ORT")
    cls = {"ORTModel": "ORTModelForFeatureExtraction"}.get(cls, cls)
    opened = subprocess.run(
        [str(python), "-c", OPEN.format(cls=cls), str(done.folder)], capture_output=True, text=True, timeout=300
    )
    assert opened.returncode == 0, opened.stderr
    found = torch.tensor(json.loads(opened.stdout.split("ANSWER")[1]))
    model = HEADS[task][0].from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["turn on the lights", "what is the weather like"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)[0]
    if expected.shape[:2] == inputs["input_ids"].shape:
        real = inputs["attention_mask"].bool()
        found, expected = found[real], expected[real]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def classifier(body, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    model = AutoModelForSequenceClassification.from_pretrained(body, num_labels=3)
    create_student(model, "tinybert-3l-192d").save_pretrained(folder)
    AutoTokenizer.from_pretrained(body).save_pretrained(folder)
    return folder


def test_what_is_too_far_off_leaves_nothing(classifier, tmp_path):
    with pytest.raises(
        ValueError, match=r"differ from PyTorch's by up to .* more than the tolerance of 0: nothing was"
    ):
        export_onnx(classifier, tmp_path / "out", tolerance=0)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_what_is_no_number_is_no_match(classifier, monkeypatch, tmp_path):
    forward = OnnxModel.forward
    monkeypatch.setattr(
        OnnxModel, "forward", lambda self, **given: {k: v * float("nan") for k, v in forward(self, **given).items()}
    )
    with pytest.raises(ValueError, match="by up to nan, more than"):
        export_onnx(classifier, tmp_path / "out")


def test_a_check_that_fails_leaves_everything_as_it_was(classifier, tmp_path):
    def check(kind, file):
        assert file.is_file()
        raise ValueError(f"not {kind}")

    with pytest.raises(ValueError, match="not fp32"):
        export_onnx(classifier, tmp_path / "out", check=check)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_into_the_students_own_folder(classifier):
    before = {path.name: path.read_bytes() for path in classifier.iterdir() if path.is_file()}
    done = export_onnx(classifier)
    assert done.folder == classifier
    assert [path.name for path in (classifier / "onnx").iterdir()] == ["model.onnx"]
    assert {path.name: path.read_bytes() for path in classifier.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, r"quantize must be None or one of int8; got 'int4'"),
        ({"model_dir": "some/hub-id"}, r"is no folder: say with output_dir"),
    ],
)
def test_what_cannot_be(classifier, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(**({"model_dir": classifier} | arguments))


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="Optimum has no exporter for transformers 5")
def test_optimums_own_command_takes_our_folders(classifier, tmp_path):
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx", "--model", str(classifier)]
    command += ["--task", "text-classification"]  # which it does not find out of local folders
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").is_file()
