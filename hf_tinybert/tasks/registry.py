"""Which class implements which task, and the task of a saved model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.data.column_names import LABEL, TEXT, find, first
from hf_tinybert.data.loading import RawData
from hf_tinybert.tasks import WITH_LABELS
from hf_tinybert.tasks.feature_extraction import FeatureExtraction
from hf_tinybert.tasks.fill_mask import FillMask
from hf_tinybert.tasks.question_answering import QuestionAnswering
from hf_tinybert.tasks.task import Task
from hf_tinybert.tasks.text_classification import TextClassification
from hf_tinybert.tasks.token_classification import TAGS, WORDS, TokenClassification

if TYPE_CHECKING:  # data are read without models
    from transformers import PretrainedConfig

TASKS: dict[str, type[Task]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "fill-mask": FillMask,
    "feature-extraction": FeatureExtraction,
}


def start(
    name: str | None,
    config: PretrainedConfig | None,
    args: DataArguments,
    training: bool,
    data: RawData | None = None,
) -> Task:
    """The named task, or that of a model, or text classification, with its data read.

    Args:
        name: one of `TASKS`, or None.
        config: of a fine-tuned model, whose class says its task.
        args: where the data come from.
        training: whether training data are needed; without, they are left out.
        data: what `args` name, where it has been read already.

    Raises:
        ValueError: the data are missing, or cannot be of this task.
    """
    of_config = of_model(config)
    chosen = name or of_config or "text-classification"
    return TASKS[chosen](args, training, config if chosen == of_config else None, data)


def fitting(data: RawData, args: DataArguments) -> str:
    """The task whose columns the data have; text classification where no other task's are there.

    Args:
        data: what `args` name.
        args: name the columns, where the user does.
    """
    columns = next(iter(data.splits.values())).column_names
    if first(columns, WORDS) is not None and first(columns, TAGS) is not None:
        return "token-classification"
    if find(columns, "question") is not None and find(columns, "context") is not None:
        return "question-answering"
    labelled = first(columns, LABEL) is not None or args.label_column is not None or args.label_columns
    return "text-classification" if labelled or first(columns, TEXT) is None else "feature-extraction"


def of_model(config: PretrainedConfig | None) -> str | None:
    """The task of a fine-tuned model, by the class that it was saved from; None if that has no task head."""
    if config is None:
        return None
    from hf_tinybert.models.auto_classes import saved_from

    return next((name for name in WITH_LABELS if saved_from(config, TASKS[name].auto)), None)
