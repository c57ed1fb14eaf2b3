"""Which runtimes work here, and what is said of those that do not."""

from __future__ import annotations

import importlib.util
import json
import sys

import factories
import pytest
import torch
from traced_once import traced_once

from hf_tinybert.benchmark.runtimes import RUNTIMES, find_runtimes, prepare
from hf_tinybert.export import exporters
from hf_tinybert.hub import upload

CPU = torch.device("cpu")
has_onnx = importlib.util.find_spec("onnxruntime") is not None


def test_without_a_wish_every_runtime_that_works_here():
    assert find_runtimes([], CPU) == (RUNTIMES if has_onnx else RUNTIMES[:2])
    assert find_runtimes(["pytorch-int8", "pytorch"], CPU) == ("pytorch-int8", "pytorch")
    assert find_runtimes([], torch.device("cuda"))[0] == "pytorch"
    assert "pytorch-int8" not in find_runtimes([], torch.device("cuda"))


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        (["tensorflow"], "cpu", "Unknown runtime 'tensorflow'; the runtimes are pytorch, pytorch-int8, onnxruntime"),
        (["pytorch", "pytorch"], "cpu", "The runtime 'pytorch' is named twice"),
        (["onnxruntime"], "cuda", "'onnxruntime' does not work here: ONNX Runtime is measured on the CPU only"),
        (["pytorch-int8"], "cuda", "'pytorch-int8' does not work here: dynamic quantisation runs on the CPU only"),
    ],
)
def test_runtimes_that_cannot_be(wanted, device, message):
    with pytest.raises(ValueError, match=message):
        find_runtimes(wanted, torch.device(device))


def test_without_onnxruntime_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"'onnxruntime' does not work here.*pip install 'hf-tinybert\[onnx\]'"):
        find_runtimes(["onnxruntime"], CPU)
    assert find_runtimes([], CPU) == RUNTIMES[:2]


@pytest.fixture(scope="module")
def traced(teacher_folder, tmp_path_factory):
    """A student that PyTorch's exporter has traced once."""
    model = factories.small_student(factories.load(teacher_folder), init="teacher").eval()
    with traced_once():
        exporters.write(model, tmp_path_factory.mktemp("traced") / "model.onnx")
    return model


@pytest.mark.skipif(not has_onnx, reason="ONNX Runtime is not installed")
def test_an_onnx_file_of_other_weights_is_not_measured(traced, tmp_path):
    model = traced
    model.save_pretrained(tmp_path / "model")
    onnx = tmp_path / "model" / "onnx"
    onnx.mkdir()
    with traced_once():
        exporters.write(model, onnx / "model.onnx")
        facts = {"weights": upload.weights_sha256(tmp_path / "model")}
        (onnx / "export.json").write_text(json.dumps(facts), encoding="utf-8")
        opened, size = prepare("onnxruntime", model, str(tmp_path / "model"), str(tmp_path))
        assert opened(1).path == onnx / "model.onnx"
        assert size == (onnx / "model.onnx").stat().st_size
        (onnx / "export.json").write_text('{"weights": "of others"}', encoding="utf-8")
        opened, size = prepare("onnxruntime", model, str(tmp_path / "model"), str(tmp_path))
        assert opened(1).path.parent != onnx
        assert size == opened(1).path.stat().st_size
