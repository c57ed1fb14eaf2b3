"""What the command line needs of a task: its model class, its data and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from datasets import Dataset, DatasetDict

from hf_tinybert.data import loading
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.utils.types import AutoClass, Collator

if TYPE_CHECKING:  # data are read without models
    from torch import Tensor
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Metric: TypeAlias = "Callable[[EvalPrediction], dict[str, float]]"
#: As `preprocess_logits_for_metrics`: from logits (or a tuple of outputs) and labels to what is kept for the metrics.
Preprocess: TypeAlias = "Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor]"


class TrainerArguments(TypedDict):
    """Arguments of a `Trainer`."""

    train_dataset: Dataset | None
    eval_dataset: Dataset | None
    data_collator: Collator
    compute_metrics: Metric | None
    preprocess_logits_for_metrics: Preprocess | None


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
    collator: Collator
    leading: str
    metrics: dict[str, Metric]
    preprocess: Preprocess | None = None

    def beside(self, teachers: Encoded) -> Encoded:
        """These examples, with the teacher's own inputs beside the student's.

        Args:
            teachers: the same rows, by the teacher's tokenizer.
        """
        from hf_tinybert.teacher import inputs

        splits = DatasetDict()
        for name, dataset in self.splits.items():
            columns = inputs.renamed({key: teachers.splits[name][key] for key in teachers.splits[name].features})
            for column, values in columns.items():
                dataset = dataset.add_column(column, list(values))
            splits[name] = dataset
        return replace(self, splits=splits)

    def trainer_arguments(self) -> TrainerArguments:
        """Data, collator and metrics for a Trainer: train and evaluate on the splits of these names."""
        return {
            "train_dataset": self.splits.get("train"),
            "eval_dataset": self.splits.get("eval"),
            "data_collator": self.collator,
            "compute_metrics": self.metrics.get("eval"),
            "preprocess_logits_for_metrics": self.preprocess,
        }


@dataclass(frozen=True)
class View:
    """A split as its task understands it.

    Attributes:
        problem: what is learnt, in words.
        columns: what they hold, and their names.
        texts: of every row, as many as an example has.
        labels: of every row, as one text; empty where there are none.
        classes: how often each occurs, in the order of the model.
        numbers: to be predicted.
        notes: how the labels were read.
        in_windows: long texts are read in several windows, not cut.
    """

    problem: str
    columns: list[tuple[str, str]]
    texts: Sequence[tuple[str, ...]]
    labels: list[str] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    numbers: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    in_windows: bool = False


class LazyAutoClass:
    """One of transformers' Auto classes, imported when it is asked for.

    Args:
        name: of the class.
    """

    def __init__(self, name: str) -> None:
        """Keep the name."""
        self._name = name

    def __get__(self, instance: Task | None, owner: type[Task]) -> AutoClass:
        """The class."""
        import transformers

        auto: AutoClass = getattr(transformers, self._name)
        return auto


class Task(ABC):
    """A task, and the splits that were read for it.

    Args:
        args: where the data come from.
        training: whether training data are needed; without, they are left out.
        config: of a model that was fine-tuned for the task, whose labels the data must have.
        data: what `args` name, where it has been read already.

    Raises:
        ValueError: the data are missing, or cannot be of this task.

    Attributes:
        auto: the Auto class of its models.
        needs_teacher: the data have no labels; a student learns from its teacher's outputs alone.
        of_texts: every tokenizer makes one example of a row.
        single_words: its texts are lists of words (see `hf_tinybert.models.loading.load_tokenizer`).
        splits: the rows as they were read, checked.
    """

    auto: LazyAutoClass
    needs_teacher = False
    of_texts = False
    single_words = False

    def __init__(
        self,
        args: DataArguments,
        training: bool,
        config: PretrainedConfig | None = None,
        data: loading.RawData | None = None,
    ) -> None:
        """Read and check the data."""
        self.args = args
        self.config = config
        data = data or loading.load_raw(args)
        #: Where the splits come from.
        self.sources = data.sources
        splits = data.splits
        if not training:
            splits.pop("train", None)
            if not splits:
                raise ValueError(
                    "Nothing to evaluate on: give --eval-file or --test-file, or a --dataset with such a split."
                )
        elif "train" not in splits:
            raise ValueError("No training data: give --train-file or a --dataset with a train split.")
        #: What may not be meant so, by split.
        self.doubts: dict[str, list[str]] = {name: [] for name in splits}
        splits = self._check(splits)
        if training and "train" not in splits:
            raise ValueError("The training data has no labels.")
        #: The rows as they were read, checked. They say which labels there are.
        self.splits = splits

    def invalid_rows(self, split: str) -> InvalidRows:
        """What takes the rows of a split that cannot be used."""
        return InvalidRows(self.sources[split].name, self.args.skip_invalid_rows)

    def first(self, splits: DatasetDict) -> tuple[Dataset, str]:
        """The split in which columns are looked for, and where it comes from."""
        name = next(iter(splits))
        return splits[name], self.sources[name].name

    def with_texts(self, split: str, dataset: Dataset, columns: Sequence[str]) -> Dataset:
        """The rows of a split that have texts in some columns.

        Raises:
            ValueError: a column is missing, or a row has no text.
        """
        loading.require_columns(split, dataset, columns)
        invalid = self.invalid_rows(split)
        dataset, rows = loading.with_texts(dataset, columns, invalid)
        invalid.say()
        return loading.only(dataset, rows)

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
    def view(self, split: str) -> View:
        """A split as the task understands it."""

    def check_labels(self, config: PretrainedConfig) -> None:
        """Refuse labels that a model does not know; tasks without labels have none.

        Raises:
            ValueError: the message has both lists.
        """
        return

    @abstractmethod
    def config_kwargs(self) -> dict[str, object]:
        """What the configuration of a model for the training data says of its labels."""

    def load_model(self, name: str) -> PreTrainedModel:
        """A pretrained encoder with a head for the training data, in float32.

        transformers 5 would otherwise train a checkpoint in half precision as it is, into NaN.

        Args:
            name: folder or Hub id.

        Raises:
            ValueError: the folder holds no model, or one with a head for another number of labels.
        """
        import torch
        from safetensors import SafetensorError

        from hf_tinybert.models.loading import check_folder

        check_folder(name, "model")
        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise ValueError(f"The model folder {name} holds no model: there is no config.json in it.")
        kwargs = self.config_kwargs()
        try:
            model, info = self.auto.from_pretrained(name, output_loading_info=True, dtype=torch.float32, **kwargs)
        except (SafetensorError, RuntimeError) as error:
            wanted = f"{kwargs['num_labels']} label(s)" if "num_labels" in kwargs else "this task"
            raise ValueError(
                f"The model {name} cannot be loaded with a head for {wanted}: {str(error).splitlines()[0]} Was "
                "it fine-tuned for other labels? Start from a pretrained encoder."
            ) from None
        self.start_head(model, info["missing_keys"])
        return model

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
