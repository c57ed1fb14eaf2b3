"""What the command line needs of a task: its model class, its data and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from datasets import DatasetDict
from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.data import loading
from hf_tinybert.data.loading import DataArguments
from hf_tinybert.teacher import inputs

Metric = Callable[[EvalPrediction], dict[str, float]]


@dataclass(frozen=True)
class Encoded:
    """Examples that a Trainer takes.

    Attributes:
        splits: tokenised, unpadded.
        collator: makes batches of them.
        leading: name of the metric that counts.
        metrics: split -> `compute_metrics`.
        preprocess: `preprocess_logits_for_metrics`, or None.
    """

    splits: DatasetDict
    collator: Any
    leading: str
    metrics: dict[str, Metric]
    preprocess: Any = None

    def beside(self, teachers: Encoded) -> Encoded:
        """These examples, with the teacher's own inputs beside the student's.

        Args:
            teachers: the same rows, by the teacher's tokenizer.
        """
        splits = DatasetDict()
        for name, dataset in self.splits.items():
            columns = inputs.renamed({key: teachers.splits[name][key] for key in teachers.splits[name].features})
            for column, values in columns.items():
                dataset = dataset.add_column(column, list(values))
            splits[name] = dataset
        return replace(self, splits=splits)

    def trainer_arguments(self) -> dict[str, Any]:
        """What a Trainer takes of these."""
        return {
            "train_dataset": self.splits.get("train"),
            "eval_dataset": self.splits.get("eval"),
            "data_collator": self.collator,
            "compute_metrics": self.metrics.get("eval"),
            "preprocess_logits_for_metrics": self.preprocess,
        }


class Task(ABC):
    """A task, and the splits that were read for it.

    Args:
        args: where the data come from.
        training: whether training data are needed; without, they are left out.

    Raises:
        ValueError: the data are missing, or cannot be of this task.

    Attributes:
        auto: the Auto class of its models.
        needs_teacher: there is nothing to learn but what a teacher says: no labels.
        of_texts: every tokenizer makes one example of a row.
        single_words: its texts are lists of words (see `hf_tinybert.models.loading.load_tokenizer`).
        splits: the rows as they were read, checked.
    """

    auto: Any
    needs_teacher = False
    of_texts = False
    single_words = False

    def __init__(self, args: DataArguments, training: bool) -> None:
        """Read and check the data."""
        self.args = args
        splits = loading.load_raw(args)
        if not training:
            splits.pop("train", None)
            if not splits:
                raise ValueError(
                    "Nothing to evaluate on: give --eval-file or --test-file, or a --dataset with such a split."
                )
        elif "train" not in splits:
            raise ValueError("No training data: give --train-file or a --dataset with a train split.")
        splits = self._check(splits)
        if training and "train" not in splits:
            raise ValueError("The training data has no labels.")
        #: The rows as they were read, checked. They say which labels there are.
        self.splits = splits

    @property
    def examples(self) -> DatasetDict:
        """The rows that are encoded: no more for training than `--max-train-samples`."""
        return loading.shortened(self.splits, self.args)

    @abstractmethod
    def _check(self, splits: DatasetDict) -> DatasetDict:
        """The splits that can be used; finds the columns in the first.

        Raises:
            ValueError: a split is not of this task.
        """

    @abstractmethod
    def config_kwargs(self) -> dict[str, Any]:
        """What the configuration of a model for the training data says of its labels."""

    def start_head(self, model: PreTrainedModel, missing: Collection[str]) -> None:
        """Make a new head ready for the training data; by default it is as it was initialised.

        Args:
            model: just loaded.
            missing: names of weights that the checkpoint did not have.
        """
        return

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Make examples of the splits for a model.

        Raises:
            ValueError: a label is unknown to the model.
        """
