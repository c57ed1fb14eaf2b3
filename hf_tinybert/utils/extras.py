"""Packages that only some features need, and the extras that install them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

_EXPORT = ("onnx", "onnx-torch")
#: Package -> the extras of hf-tinybert that install it, each by itself.
EXTRAS: dict[str, tuple[str, ...]] = {
    "sklearn": ("cli",),
    "seqeval": ("cli",),
    "torchmetrics": ("cli",),
    "regex": ("augmentation",),
    "stop_words": ("augmentation",),
    "matplotlib": ("plots",),
    "peft": ("peft",),
    "onnx": _EXPORT,
    "onnxruntime": _EXPORT,
    "onnxscript": ("onnx-torch",),
}
#: Which of two extras is for whom.
_FOR = {"onnx": " with transformers 4", "onnx-torch": " with transformers 5, which has no Optimum exporter"}


def required(name: str, purpose: str) -> ModuleType:
    """A module of an optional package.

    Args:
        name: of the module, such as `sklearn.metrics`.
        purpose: what it is needed for, as the subject of the message.

    Raises:
        ImportError: the package is not installed; the message names the extra that brings it.
    """
    check_installed(name, purpose)
    return importlib.import_module(name)


def check_installed(name: str, purpose: str) -> None:
    """Refuse to go on without an optional package, before any time is spent; it is not imported.

    Raises:
        ImportError: as `required`.
    """
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        extras = EXTRAS[package]
        installs = [f"'hf-tinybert[{extra}]'{_FOR.get(extra, '') if len(extras) > 1 else ''}" for extra in extras]
        raise ImportError(f"{purpose} needs {package}: pip install {', or '.join(installs)}.")
