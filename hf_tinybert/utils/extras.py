"""Packages that only some features need, and the extra that brings each."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

#: Package -> the extra of hf-tinybert that installs it.
EXTRAS = {
    "sklearn": "cli",
    "seqeval": "cli",
    "torchmetrics": "cli",
    "regex": "augmentation",
    "stop_words": "augmentation",
    "matplotlib": "plots",
    "peft": "peft",
}


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
        extra = EXTRAS[package]
        raise ImportError(f"{purpose} needs {package}: pip install 'hf-tinybert[{extra}]'.")
