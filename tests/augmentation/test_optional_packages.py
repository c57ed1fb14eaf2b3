"""Without the extra's packages, the import says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

import hf_tinybert.augmentation  # noqa: F401  (so that only the module at hand is imported again)


@pytest.mark.parametrize(("package", "module"), [("regex", "words"), ("stop_words", "stop_words")])
def test_the_extra_is_named(package, module, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"hf_tinybert.augmentation.{module}")
    message = rf"^Data augmentation needs {package}: pip install 'hf-tinybert\[augmentation\]'\.$"
    with pytest.raises(ImportError, match=message):
        importlib.import_module(f"hf_tinybert.augmentation.{module}")
