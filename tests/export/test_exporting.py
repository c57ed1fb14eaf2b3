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
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hf_tinybert import create_student
from hf_tinybert.export import export_onnx, exporting, tracing
from hf_tinybert.export.session import OnnxModel

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]
HEADS = {
    "text-classification": (AutoModelForSequenceClassification, {"num_labels": 3}, ["logits"]),
    "token-classification": (AutoModelForTokenClassification, {"num_labels": 5}, ["logits"]),
    "question-answering": (AutoModelForQuestionAnswering, {}, ["start_logits", "end_logits"]),
    "fill-mask": (AutoModelForMaskedLM, {}, ["logits"]),
    "feature-extraction": (AutoModel, {}, ["last_hidden_state"]),
}
TEXTS = ["turn on the lights", "what is the weather like", "set an alarm for half past six tomorrow morning"]
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


def fused(file):
    return any(node.op_type in ("Attention", "QAttention") for node in onnx.load(file).graph.node)


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
    assert done.files["fp32"].difference <= 1e-4
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
    task, _, done = exported
    fp32, int8 = done.files["fp32"], done.files["int8"]
    assert int8.size <= 0.3 * fp32.size
    # The worst of 30,522 logits for each token, which are up to 5 large, is further off than one of a few.
    assert fp32.difference < int8.difference < (0.6 if task == "fill-mask" else 0.3)
    assert int8.size == (done.folder / "onnx" / "model_quantized.onnx").stat().st_size


def test_configuration_and_tokenizer_lie_beside(exported):
    _, _, done = exported
    names = {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}
    assert names - {"vocab.txt", "special_tokens_map.json"} == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "onnx/export.json",
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
    def check(kind, exported):
        assert exported.path.is_file()
        raise ValueError(f"not {kind}")

    with pytest.raises(ValueError, match="not fp32"):
        export_onnx(classifier, tmp_path / "out", check=check)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_into_the_students_own_folder(classifier):
    before = {path.name: path.read_bytes() for path in classifier.iterdir() if path.is_file()}
    done = export_onnx(classifier, optimize=None, quantize="int8")
    assert done.folder == classifier
    assert {path.name for path in (classifier / "onnx").iterdir()} == {"export.json", *exporting.FILES.values()}
    export_onnx(classifier, optimize=None)  # and the quantised file of an earlier one is gone
    assert {path.name for path in (classifier / "onnx").iterdir()} == {"export.json", "model.onnx"}
    assert {path.name: path.read_bytes() for path in classifier.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, r"quantize must be None or one of int8, int8-static, auto; got 'int4'"),
        ({"optimize": "O9"}, r"optimize must be None or one of O1, O2, O3, auto; got 'O9'"),
        ({"quantize": "int8-static"}, r"needs calibration data, rows of the training data"),
        (
            {"quantize": "int8-static", "optimize": "O2", "calibration": [{"input_ids": [1]}]},
            r"takes the plain graph, .* got optimize='O2'",
        ),
        ({"model_dir": "some/hub-id"}, r"is no folder: say with output_dir"),
    ],
)
def test_what_cannot_be(classifier, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(**({"model_dir": classifier} | arguments))


@pytest.mark.one_world("4.57")
def test_what_is_faster_here_is_taken(classifier, tmp_path, monkeypatch):
    """Times are given, so that each file could be the fastest; what is then written is made as said."""
    times = {(None, None): 1.0, ("O2", None): 0.97, (None, "dynamic"): 0.5, ("O2", "dynamic"): 0.4}
    monkeypatch.setattr(exporting, "milliseconds", lambda found, *rest: {key: times[key] for key in found})
    done = export_onnx(classifier, tmp_path / "a", quantize="int8")
    made = {kind: (file.optimize, file.quantize) for kind, file in done.files.items()}
    assert made == {
        "fp32": (None, None),
        "int8": ("O2", "dynamic"),
    }  # 3% are not worth a graph that others cannot read
    assert done.fastest == "int8"
    times[("O2", None)], times[(None, "dynamic")] = 0.9, 0.3
    done = export_onnx(classifier, tmp_path / "b", quantize="int8")
    made = {kind: (file.optimize, file.quantize) for kind, file in done.files.items()}
    assert made == {"fp32": ("O2", None), "int8": (None, "dynamic")}


@pytest.mark.one_world("4.57")
def test_the_fastest_that_is_accurate(classifier, tmp_path, monkeypatch):
    times = {(None, None): 1.0, ("O2", None): 1.0, (None, "dynamic"): 0.5, ("O2", "dynamic"): 0.4}
    monkeypatch.setattr(exporting, "milliseconds", lambda found, *rest: {key: times[key] for key in found})

    def check(kind, exported):
        if kind == "int8" and fused(exported.path):
            raise ValueError("has lost too much")

    done = export_onnx(classifier, tmp_path / "a", quantize="int8", check=check)
    assert (done.files["int8"].optimize, done.files["int8"].quantize) == (None, "dynamic")


@pytest.mark.one_world("4.57")
def test_auto_leaves_out_8_bits_that_are_slower_or_lose_too_much(classifier, tmp_path, monkeypatch, caplog):
    times = {(None, None): 1.0, ("O2", None): 1.0, (None, "dynamic"): 1.5, ("O2", "dynamic"): 1.4}
    monkeypatch.setattr(exporting, "milliseconds", lambda found, *rest: {key: times[key] for key in found})
    done = export_onnx(classifier, tmp_path / "a", quantize="auto")
    assert list(done.files) == ["fp32"]
    assert not (tmp_path / "a" / "onnx" / "model_quantized.onnx").exists()

    def check(kind, exported):
        if kind == "int8":
            raise ValueError("8 bits have lost too much")

    times[(None, "dynamic")] = times[("O2", "dynamic")] = 0.5
    done = export_onnx(classifier, tmp_path / "b", quantize="auto", check=check)
    assert {path.name for path in (tmp_path / "b" / "onnx").iterdir()} == {"export.json", "model.onnx"}
    assert "No model_quantized.onnx was written: 8 bits have lost too much" in caplog.text
    with pytest.raises(ValueError, match="8 bits have lost too much"):
        export_onnx(classifier, tmp_path / "c", quantize="int8", check=check)
    assert not [path for path in (tmp_path / "c").rglob("*") if path.is_file()]


def test_static_by_the_training_data(classifier, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    rows = [dict(tokenizer(text)) for text in TEXTS * 8]
    done = export_onnx(classifier, tmp_path, quantize="int8-static", optimize=None, calibration=rows)
    assert (done.files["int8"].optimize, done.files["int8"].quantize) == (None, "static")
    assert done.files["int8"].size <= 0.3 * done.files["fp32"].size
    assert done.files["int8"].difference < 0.3
    graph = onnx.load(tmp_path / "onnx" / "model_quantized.onnx").graph
    operators = {node.op_type for node in graph.node}
    assert "QuantizeLinear" in operators
    assert "DynamicQuantizeLinear" not in operators


def test_of_an_adapter_the_merged_model_goes_elsewhere(classifier, body, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds a LoRA adapter, which ONNX does not know: say with output_dir"):
        export_onnx(tmp_path / "adapter")
    done = export_onnx(tmp_path / "adapter", tmp_path / "out", optimize=None)
    assert done.files["fp32"].difference <= 1e-4
    plain = export_onnx(classifier, tmp_path / "plain", optimize=None)
    assert done.files["fp32"].size == plain.files["fp32"].size
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS, padding=True, return_tensors="pt")
    found, other = (
        OnnxModel(where / "onnx" / "model.onnx", model.config)(**inputs)
        for where in (tmp_path / "out", tmp_path / "plain")
    )
    assert (found["logits"] - other["logits"]).abs().max() > 1e-3  # the adapter is in it


def test_a_student_of_few_positions(body, tmp_path):
    teacher = AutoModelForSequenceClassification.from_pretrained(body, num_labels=2)
    create_student(teacher, "tinybert-3l-192d").save_pretrained(tmp_path / "long")
    short = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(tmp_path / "long", max_position_embeddings=16)
    )
    short.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(body).save_pretrained(tmp_path / "short")
    done = export_onnx(tmp_path / "short", tmp_path / "out", sentences=["a long text " * 20, "a short one"])
    assert done.files["fp32"].difference <= 1e-4
    assert done.length == 16


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="Optimum has no exporter for transformers 5")
def test_optimums_own_command_takes_our_folders(classifier, tmp_path):
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx", "--model", str(classifier)]
    command += ["--task", "text-classification"]  # which it does not find out of local folders
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.onnx").is_file()
