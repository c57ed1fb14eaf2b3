"""Which class implements which task, and the task of a saved model."""

from __future__ import annotations

from transformers import PretrainedConfig

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.models.auto_classes import saved_from
from hf_tinybert.tasks import WITH_LABELS
from hf_tinybert.tasks.feature_extraction import FeatureExtraction
from hf_tinybert.tasks.fill_mask import FillMask
from hf_tinybert.tasks.question_answering import QuestionAnswering
from hf_tinybert.tasks.task import Task
from hf_tinybert.tasks.text_classification import TextClassification
from hf_tinybert.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "fill-mask": FillMask,
    "feature-extraction": FeatureExtraction,
}


def start(name: str | None, config: PretrainedConfig | None, args: DataArguments, training: bool) -> Task:
    """The named task, or that of a model, or text classification, with its data read.

    Args:
        name: one of `TASKS`, or None.
        config: of a fine-tuned model, whose class says its task.
        args: where the data come from.
        training: whether training data are needed; without, they are left out.

    Raises:
        ValueError: the data are missing, or cannot be of this task.
    """
    return TASKS[name or of_model(config) or "text-classification"](args, training)


def of_model(config: PretrainedConfig | None) -> str | None:
    """The task of a fine-tuned model, by the class that it was saved from; None if that has no task head."""
    if config is None:
        return None
    return next((name for name in WITH_LABELS if saved_from(config, TASKS[name].auto)), None)
