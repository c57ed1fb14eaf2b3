"""Texts and pairs of texts with one label, several labels, or a number."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from datasets import Dataset, DatasetDict, LargeList, List
from datasets.features.features import FeatureType as Feature
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.data import column_names, loading
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.models import head_init
from hf_tinybert.tasks.label_names import Labels
from hf_tinybert.tasks.task import Encoded, Task
from hf_tinybert.utils import types

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used."""

    text: str
    pair: str | None
    label: str

    @classmethod
    def find(cls, dataset: Dataset, args: DataArguments) -> Columns:
        """Take the named columns, or the usual names.

        Raises:
            ValueError: a column is not there; the message lists those that are.
        """
        text, pair = loading.text_columns(dataset, args)
        return cls(text, pair, pick_column(dataset, args.label_column, column_names.LABEL, "label", "--label-column"))


def checked(splits: DatasetDict, columns: Columns) -> DatasetDict:
    """Refuse splits with missing columns, texts or labels; leave out, with a warning, splits without any label.

    Raises:
        ValueError: names the split, the column and the row.
    """
    kept = DatasetDict()
    for name, dataset in splits.items():
        wanted = [column for column in (columns.text, columns.pair, columns.label) if column]
        loading.require_columns(name, dataset, wanted)
        loading.require_texts(name, dataset, wanted[:-1])
        hidden = hasattr(dataset.features[columns.label], "names")
        without = [row for row, label in enumerate(dataset[columns.label]) if _is_missing(label, hidden)]
        if len(without) == len(dataset):
            logger.warning(f"The {name} data has no labels and is left out.")
        elif without:
            raise ValueError(f"The {name} data has no label in row {without[0] + 1}, column {columns.label!r}.")
        else:
            kept[name] = dataset
    return kept


def _is_missing(label: object, hidden: bool) -> bool:
    """Whether a row has no label; -1 stands for a hidden one where labels are a ClassLabel."""
    return label is None or label == "" or label != label or (hidden and label == -1)


class TextClassification(Task):
    """Classification with one or several labels, and regression, of texts or pairs of texts."""

    auto = AutoModelForSequenceClassification
    of_texts = True

    def _check(self, splits: DatasetDict) -> DatasetDict:
        self.columns = Columns.find(next(iter(splits.values())), self.args)
        return checked(splits, self.columns)

    def config_kwargs(self) -> dict[str, object]:
        """Labels as the training data have them."""
        return Labels.from_dataset(self.splits["train"], self.columns.label).config_kwargs()

    def start_head(self, model: PreTrainedModel, missing: Collection[str]) -> None:
        """Where texts have several labels, a new head starts at their frequencies."""
        labels = Labels.from_config(model.config)
        if labels.several:
            rows = _label_sets(self.splits["train"], "train", self.columns.label, labels)
            head_init.start_at_frequencies(model, missing, rows)

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Token ids, and label ids as the model counts them."""
        labels = Labels.from_config(config)
        encoded = encode(self.examples, self.columns, labels, tokenizer, self.args.max_length)
        leading, metric = metrics.for_labels(labels.is_regression, labels.several)
        return Encoded(encoded, loading.collator(tokenizer), leading, dict.fromkeys(encoded, metric))


def encode(
    splits: DatasetDict,
    columns: Columns,
    labels: Labels,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> DatasetDict:
    """Tokenise every split and turn its labels into ids (or floats), unpadded, for a dynamic collator.

    Raises:
        ValueError: a split has a label that the model does not know.
    """

    def tokenize(batch: types.Columns) -> types.Columns:
        pair = batch[columns.pair] if columns.pair else None
        return dict(tokenizer(batch[columns.text], pair, truncation=True, max_length=max_length))

    encoded = DatasetDict()
    for name, dataset in splits.items():
        ids = _label_ids(dataset, name, columns.label, labels)
        tokens = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names, desc=f"Tokenising {name}")
        encoded[name] = tokens.add_column("labels", ids)
    return encoded


def _label_ids(
    dataset: Dataset, name: str, column: str, labels: Labels
) -> list[int] | list[float] | list[list[float]]:
    """Class ids, numbers, or rows of 0 and 1."""
    if labels.is_regression:
        return [loading.number(value, name, column) for value in dataset[column]]
    if labels.several:
        count = len(labels.names or ())
        label_sets = _label_sets(dataset, name, column, labels)
        return [[float(index in label_set) for index in range(count)] for label_set in label_sets]
    _check_feature(dataset, name, column, labels)
    return _class_ids(list(dataset[column]), dataset.features[column], name, labels)


def _label_sets(dataset: Dataset, name: str, column: str, labels: Labels) -> list[list[int]]:
    """The class ids of every row of a multi-label split."""
    _check_feature(dataset, name, column, labels)
    rows = list(dataset[column])
    flat = iter(_class_ids([value for row in rows for value in row], dataset.features[column].feature, name, labels))
    return [[next(flat) for _ in row] for row in rows]


def _check_feature(dataset: Dataset, name: str, column: str, labels: Labels) -> None:
    """Refuse lists of labels where the model has one label a text, and the other way round."""
    lists = isinstance(dataset.features[column], List | LargeList)
    if lists != labels.several:
        raise ValueError(
            f"The {name} data's column {column!r} holds {'lists of labels' if lists else 'one label a text'}, and the "
            f"model was trained for {'any number of labels' if labels.several else 'one label a text'}."
        )


def _class_ids(values: list[object], feature: Feature, name: str, labels: Labels) -> list[int]:
    """The model's class id of every value: a name, a number, or an index of a ClassLabel."""
    label_names = labels.names or ()
    if hasattr(feature, "names"):
        values = [feature.names[value] for value in values]
    ids = {label: index for index, label in enumerate(label_names)}
    numbered = all(label.lstrip("-").isdigit() for label in label_names)
    if not numbered and all(type(value) is int for value in values):
        ids = {str(index): index for index in range(len(label_names))}
    unknown = sorted({str(value) for value in values} - ids.keys())
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        expected = ", ".join(label_names[:10]) + (", ..." if len(label_names) > 10 else "")
        raise ValueError(
            f"The {name} data has {len(unknown)} label(s) that the model was not trained for: {shown}. "
            f"It knows: {expected}."
        )
    return [ids[str(value)] for value in values]
