from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

import hf_tinybert
from hf_tinybert.utils.extras import EXTRAS, check_installed, required

PACKAGE = Path(hf_tinybert.__file__).parent
#: Module -> distribution, where the names differ.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "stop_words": "stop-words"}


def test_a_module_that_is_there():
    assert required("json.decoder", "Reading") is sys.modules["json.decoder"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval", None)
    message = r"^The F1 of entities needs seqeval: pip install 'hf-tinybert\[cli\]'\.$"
    for refuse in (check_installed, required):
        with pytest.raises(ImportError, match=message):
            refuse("seqeval.metrics", "The F1 of entities")


def test_where_two_extras_bring_it_both_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = (
        r"Export needs onnxruntime: pip install 'hf-tinybert\[onnx\]' with transformers 4, or 'hf-tinybert\[onnx-"
    )
    with pytest.raises(ImportError, match=message):
        check_installed("onnxruntime", "Export")


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_brings_the_package(package):
    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    name = DISTRIBUTIONS.get(package, package)
    for extra in EXTRAS[package]:
        assert any(re.match(rf"{name}\b|optimum-onnx\[{name}|optimum-{name}", text) for text in extras[extra])


@pytest.mark.parametrize(
    ("module", "missing"), [("augmentation/words.py", "regex"), ("augmentation/stop_words.py", "stop_words")]
)
def test_augmentation_without_its_extra(monkeypatch, module, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    spec = importlib.util.spec_from_file_location("loaded_anew", PACKAGE / module)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install 'hf-tinybert\[augmentation\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
