"""Distil a fine-tuned Hugging Face encoder into a TinyBERT with a drop-in Trainer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tinybert import losses
    from hf_tinybert.configuration import TinyBertConfig
    from hf_tinybert.layer_mapping import LayerMapping
    from hf_tinybert.models.peft import merge_adapter
    from hf_tinybert.student.create import create_student
    from hf_tinybert.student.vocabulary import trim_vocabulary
    from hf_tinybert.teacher.inputs import tokenize_for_teacher
    from hf_tinybert.trainer import DistillationTrainer
    from hf_tinybert.training_args import DistillationTrainingArguments

__version__ = "0.1.0.dev0"

__all__ = [
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "LayerMapping",
    "TinyBertConfig",
    "create_student",
    "losses",
    "merge_adapter",
    "tokenize_for_teacher",
    "trim_vocabulary",
]

#: Name -> the module that holds it, which is imported when the name is first used.
_HOMES = {
    "DistillationTrainer": "trainer",
    "DistillationTrainingArguments": "training_args",
    "LayerMapping": "layer_mapping",
    "TinyBertConfig": "configuration",
    "create_student": "student.create",
    "merge_adapter": "models.peft",
    "tokenize_for_teacher": "teacher.inputs",
    "trim_vocabulary": "student.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name == "losses":
        return importlib.import_module("hf_tinybert.losses")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hf_tinybert.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
