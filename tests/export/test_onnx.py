"""ONNX files say what the models say, in both worlds and opened by either."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import factories
import pytest
import tiny_models
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

from hf_tinybert.export import export_onnx, exporters
from hf_tinybert.export import onnx as exporting
from hf_tinybert.export.session import OnnxModel
from hf_tinybert.utils import compat

pytest_plugins = ["clean_python"]
pytestmark = pytest.mark.also_transformers("4.57")

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

HEADS = {
    "text-classification": (AutoModelForSequenceClassification, {"num_labels": 3}, ["logits"]),
    "token-classification": (AutoModelForTokenClassification, {"num_labels": 5}, ["logits"]),
    "question-answering": (AutoModelForQuestionAnswering, {}, ["start_logits", "end_logits"]),
    "fill-mask": (AutoModelForMaskedLM, {}, ["logits"]),
    "feature-extraction": (AutoModel, {}, ["last_hidden_state"]),
}
TEXTS = ["turn on the lights", "what is the weather like", "set an alarm for half past six tomorrow morning"]


def fused(file):
    return any(node.op_type in ("Attention", "QAttention") for node in onnx.load(file).graph.node)


def stored(file, *types):
    """How many numbers of those types a file holds in matrices."""
    tensors = onnx.load(file).graph.initializer
    return sum(math.prod(tensor.dims) for tensor in tensors if len(tensor.dims) > 1 and tensor.data_type in types)


def weights(file):
    return stored(file, onnx.TensorProto.FLOAT)


def whole_numbers(file):
    return stored(file, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


#: The graphs that also have fused operators; PyTorch's exporter takes seconds for each graph, Optimum's a moment.
OPTIMISED = {"text-classification": "auto", "fill-mask": "auto"}
QUICK = list(HEADS) if exporters.has_optimum() else ["text-classification", "question-answering"]


@pytest.fixture(
    scope="module", params=[pytest.param(task, marks=() if task in QUICK else pytest.mark.slow) for task in HEADS]
)
def exported(request, encoder, classifier_folder, tmp_path_factory):
    """Task, folder of the student, and what was exported of it elsewhere."""
    task, folder = request.param, tmp_path_factory.mktemp("student")
    if task == "text-classification":
        shutil.copytree(classifier_folder, folder, dirs_exist_ok=True)
    else:
        auto, kwargs, _ = HEADS[task]
        factories.small_student(auto.from_pretrained(encoder, **kwargs), init="teacher").save_pretrained(folder)
        factories.tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("stays", encoding="utf-8")
    done = export_onnx(folder, folder / "exported", quantize="int8", optimize=OPTIMISED.get(task))
    return task, folder, done


@pytest.mark.parametrize("task", HEADS)
def test_what_pytorch_traces_says_what_the_model_says(task):
    auto, kwargs, outputs = HEADS[task]
    model = tiny_models.model(auto=auto, **({"num_labels": 2} | kwargs))
    assert exporters._OUTPUTS[task] == tuple(outputs)
    batch = tiny_models.batch()
    found = exporters._Positional(model, list(batch), outputs, mask_axes=2)(*batch.values())
    with torch.no_grad():
        own = model(**batch)
    real = batch["attention_mask"].bool()
    for name, value in zip(outputs, found, strict=True):
        mine = own[name]
        if mine.shape[:2] == real.shape:
            mine, value = mine[real], value[real]
        torch.testing.assert_close(value, mine, rtol=0, atol=1e-5)


def test_the_file_says_what_the_model_says(exported):
    task, folder, done = exported
    auto, _, outputs = HEADS[task]
    assert done.exporter == ("torch" if compat.HAS_SAMPLING_STRATEGY else "optimum")
    assert done.files["fp32"].difference <= 1e-4
    model = auto.from_pretrained(folder).eval()
    found = OnnxModel(done.folder / "onnx" / "model.onnx", model.config)
    assert found.inputs.names == ["input_ids", "attention_mask", "token_type_ids"]
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
    assert int8.size < 0.6 * fp32.size  # of a small model, whose graph itself takes room
    folder = done.folder / "onnx"
    assert whole_numbers(folder / "model_quantized.onnx") > 0.97 * weights(folder / "model.onnx")
    # The worst of 1,500 logits for each token is further off than one of a few.
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


def test_optimum_opens_it(exported, request):
    """In the version that has Optimum's ONNX Runtime models, whichever version the file is from."""
    task, folder, done = exported
    if task in ("token-classification", "fill-mask"):
        pytest.skip("as text classification")
    ask = request.getfixturevalue("clean_python" if exporters.has_optimum() else "other_python")
    name = HEADS[task][0].__name__.replace("Auto", "ORT")
    name = {"ORTModel": "ORTModelForFeatureExtraction"}.get(name, name)
    answer = ask("optimum", folder=str(done.folder), name=name, texts=TEXTS[:2])
    assert "error" not in answer, answer
    found = torch.tensor(answer["result"])
    model = HEADS[task][0].from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)[0]
    if expected.shape[:2] == inputs["input_ids"].shape:
        real = inputs["attention_mask"].bool()
        found, expected = found[real], expected[real]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.fixture
def classifier(classifier_folder, tmp_path):
    """Of the test's own."""
    return Path(shutil.copytree(classifier_folder, tmp_path / "classifier"))


def test_what_is_too_far_off_leaves_nothing(classifier, tmp_path):
    with pytest.raises(
        ValueError, match=r"differ from PyTorch's by up to \d.* more than the tolerance of 0: nothing was written"
    ):
        export_onnx(classifier, tmp_path / "out", tolerance=0, optimize=None)
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


def test_the_fastest_that_is_accurate(classifier, tmp_path, monkeypatch):
    times = {(None, None): 1.0, ("O2", None): 1.0, (None, "dynamic"): 0.5, ("O2", "dynamic"): 0.4}
    monkeypatch.setattr(exporting, "milliseconds", lambda found, *rest: {key: times[key] for key in found})

    def check(kind, exported):
        if kind == "int8" and fused(exported.path):
            raise ValueError("has lost too much")

    done = export_onnx(classifier, tmp_path / "a", quantize="int8", check=check)
    assert (done.files["int8"].optimize, done.files["int8"].quantize) == (None, "dynamic")


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
    rows = factories.household()["train"].select(range(48))
    done = export_onnx(classifier, tmp_path / "out", quantize="int8-static", optimize=None, calibration=rows)
    assert (done.files["int8"].optimize, done.files["int8"].quantize) == (None, "static")
    assert done.files["int8"].size < 0.6 * done.files["fp32"].size
    folder = tmp_path / "out" / "onnx"
    assert whole_numbers(folder / "model_quantized.onnx") > 0.97 * weights(folder / "model.onnx")
    assert done.files["int8"].difference < 0.3
    graph = onnx.load(tmp_path / "out" / "onnx" / "model_quantized.onnx").graph
    operators = {node.op_type for node in graph.node}
    assert "QuantizeLinear" in operators
    assert "DynamicQuantizeLinear" not in operators


def test_of_an_adapter_the_merged_model_goes_elsewhere_also_of_few_positions(classifier, tmp_path):
    peft = pytest.importorskip("peft")
    short = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(classifier, max_position_embeddings=16)
    )
    short.save_pretrained(classifier)
    short = AutoModelForSequenceClassification.from_pretrained(classifier)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(short, config)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds a LoRA adapter, which ONNX does not know: say with output_dir"):
        export_onnx(tmp_path / "adapter")
    long = ["a long text " * 20, "a short one"]
    done = export_onnx(tmp_path / "adapter", tmp_path / "out", optimize=None, sentences=long)
    assert done.files["fp32"].difference <= 1e-4
    assert done.length == 16
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS[:2], padding=True, return_tensors="pt")
    found = OnnxModel(tmp_path / "out" / "onnx" / "model.onnx", short.config)(**inputs)["logits"]
    with torch.no_grad():
        merged = adapted.eval()(**inputs).logits
        with adapted.disable_adapter():
            plain = adapted(**inputs).logits
    torch.testing.assert_close(found, merged, rtol=0, atol=1e-4)
    assert (merged - plain).abs().max() > 1e-3  # the adapter says something


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="Optimum has no exporter for transformers 5")
def test_optimums_own_command_takes_our_folders(processes, classifier, tmp_path):
    words = ["export", "onnx", "--model", classifier, "--task", "text-classification"]  # not found out of folders
    done = processes.run("-m", "optimum.commands.optimum_cli", *words, tmp_path / "out")
    assert done.returncode == 0, done.output
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    inputs = AutoTokenizer.from_pretrained(classifier)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
    found = OnnxModel(tmp_path / "out" / "model.onnx", model.config)(**inputs)["logits"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
