"""Distil a fine-tuned Hugging Face encoder into a TinyBERT with a drop-in Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tinybert.utils.lazy import lazy_names

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

#: Public name -> its module, imported at the first access.
_MODULES = {
    "DistillationTrainer": "trainer",
    "DistillationTrainingArguments": "training_args",
    "LayerMapping": "layer_mapping",
    "TinyBertConfig": "configuration",
    "create_student": "student.create",
    "losses": "losses",
    "merge_adapter": "models.peft",
    "tokenize_for_teacher": "teacher.inputs",
    "trim_vocabulary": "student.vocabulary",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
