"""Fused graphs say what the models say, whichever tokens are padding."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import AutoModelForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification

from hf_tinybert.export import exporters, optimize, quantize
from hf_tinybert.export.session import OnnxModel

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.also_transformers("4.57")

PRODUCTS = ("MatMulInteger", "QAttention")


@pytest.fixture(scope="module")
def student(classifier_folder):
    return AutoModelForSequenceClassification.from_pretrained(classifier_folder).eval()


@pytest.fixture(scope="module")
def plain(student, tmp_path_factory):
    file = tmp_path_factory.mktemp("plain") / "plain.onnx"
    exporters.write(student, file)
    return file


@pytest.fixture(scope="module", params=optimize.LEVELS)
def optimised(request, student, plain, tmp_path_factory):
    file = tmp_path_factory.mktemp("optimised") / "model.onnx"
    optimize.fuse(student, plain, file, request.param)
    return request.param, file


def operators(file):
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_operators_are_fused(optimised):
    level, file = optimised
    found = operators(file)
    assert found["Attention"] == (0 if level == "O1" else 2)
    assert found["SkipLayerNormalization"] == (0 if level == "O1" else 4)
    assert found["BiasGelu"] == (2 if level == "O2" else 0)
    assert found["FastGelu"] == (2 if level == "O3" else 0)
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]


def test_padding_anywhere_is_not_looked_at(optimised, student):
    level, file = optimised
    ids = torch.randint(100, 1500, (4, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0  # on the right
    mask[2, :3] = 0  # on the left
    mask[3, [2, 5]] = 0  # between
    with torch.no_grad():
        expected = student(input_ids=ids, attention_mask=mask).logits
    found = OnnxModel(file, student.config)(input_ids=ids, attention_mask=mask)["logits"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if level == "O3" else 1e-5)
    other = torch.where(mask.bool(), ids, 999)
    again = OnnxModel(file, student.config)(input_ids=other, attention_mask=mask)["logits"]
    pooled = mask[:, 0].bool()  # where the first token, of which the head reads, is padding, it counts all the same
    torch.testing.assert_close(again[pooled], found[pooled], rtol=0, atol=1e-6)


def test_in_8_bits_the_attentions_projections_are_one_product(optimised, student, tmp_path):
    level, file = optimised
    quantize.to_int8(file, tmp_path / "int8.onnx", student.config)
    found = operators(tmp_path / "int8.onnx")
    assert found["QAttention"] == (0 if level == "O1" else 2)
    assert found["Attention"] == found["Gemm"] == 0
    graph = onnx.load(tmp_path / "int8.onnx").graph
    multiplied = {name for node in graph.node if node.op_type in PRODUCTS for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in multiplied and len(tensor.dims) == 2]
    assert len(weights) == (14 if level == "O1" else 10)
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}  # signed: unsigned ones are slow
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_the_model_stays_as_it_was(student, plain, tmp_path):
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimize.fuse(student, plain, tmp_path / "model.onnx", "O2")
    after = student.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert student(**student.dummy_inputs).logits.shape[-1] == student.config.num_labels


def test_other_families_are_refused(plain, tmp_path):
    config = DistilBertConfig(n_layers=1, dim=12, n_heads=2, hidden_dim=16, vocab_size=20)
    with pytest.raises(ValueError, match=r"optimize='O2' takes BERT models; this is a distilbert"):
        optimize.fuse(DistilBertForSequenceClassification(config), plain, tmp_path / "model.onnx", "O2")
    assert not list(tmp_path.iterdir())
