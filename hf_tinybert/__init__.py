"""Distil a fine-tuned Hugging Face encoder into a TinyBERT with a drop-in Trainer."""

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
