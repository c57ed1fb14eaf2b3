"""Texts and pairs of texts with one label, several labels, or a number."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict

from hf_tinybert.data import column_names, loading
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.data.class_ids import class_ids
from hf_tinybert.data.label_values import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    LabelOptions,
    LabelValues,
    flat,
    kind_of,
)
from hf_tinybert.data.labels import read_labels
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.tasks.label_names import Labels
from hf_tinybert.tasks.task import Encoded, LazyAutoClass, Task, View
from hf_tinybert.utils import types

if TYPE_CHECKING:  # data are read without models
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

#: Label of an evaluation row whose class the training data do not have: no prediction is right.
_UNKNOWN = -100


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used."""

    text: str
    pair: str | None
    label: str

    @classmethod
    def find(cls, dataset: Dataset, args: DataArguments, source: str = "the data") -> Columns:
        """Take the named columns, or the usual names.

        Raises:
            ValueError: a column is not there; the message lists those that are.
        """
        text, pair = loading.text_columns(dataset, args, source)
        given = next(iter(loading.words(args.label_columns)), args.label_column)
        return cls(text, pair, pick_column(dataset, given, column_names.LABEL, "label", "--label-column", source))


def label_options(args: DataArguments) -> LabelOptions:
    """What the arguments say about labels."""
    return LabelOptions(
        kind=kind_of(args.problem_type),
        names=loading.words(args.class_names),
        decimal=args.decimal,
        separator=args.label_separator,
        columns=loading.words(args.label_columns),
        column_given=args.label_column is not None,
    )


class TextClassification(Task):
    """Classification with one or several labels, and regression, of texts or pairs of texts."""

    auto = LazyAutoClass("AutoModelForSequenceClassification")
    of_texts = True

    def _check(self, splits: DatasetDict) -> DatasetDict:
        first, source = self.first(splits)
        self.columns = Columns.find(first, self.args, source)
        options, model = label_options(self.args), None
        columns = [pick_column(first, name, (), "label", "--label-columns", source) for name in options.columns]
        options = replace(options, columns=tuple(columns))
        if self.config is not None:
            of_model = Labels.from_config(self.config)
            model = of_model.kind, len(of_model.names or ())
        #: The labels of every split.
        self.labels: dict[str, LabelValues] = {}
        kept = DatasetDict()
        for name, dataset in splits.items():
            wanted = [column for column in (self.columns.text, self.columns.pair) if column]
            loading.require_columns(name, dataset, [*wanted, *(options.columns or [self.columns.label])])
            invalid = self.invalid_rows(name)
            dataset, with_texts = loading.with_texts(dataset, wanted, invalid)
            found = read_labels(dataset, self.columns.label, options, invalid, model)
            invalid.say()
            if found is None:
                logger.warning(f"The {name} data has no labels and is left out.")
                continue
            if name == "train" and model is None:  # the other splits have labels of the same kind
                model = found.kind, len(found.classes())
            self.labels[name] = found = found.of_rows(with_texts)
            self.doubts[name] += found.doubts
            kept[name] = loading.only(dataset, found.valid)
        return kept

    def view(self, split: str) -> View:
        """Texts and labels of a split."""
        dataset, found, columns = self.splits[split], self.labels[split], self.columns
        names = [column for column in (columns.text, columns.pair) if column]
        texts = list(zip(*(list(dataset[name]) for name in names), strict=True))
        used = [("text", columns.text), *([("second text", columns.pair)] if columns.pair else [])]
        shown = [", ".join(value) if isinstance(value, list) else str(value) for value in found.values]
        if found.kind == REGRESSION:
            numbers = [value for value in found.values if isinstance(value, float)]
            return View("regression", [*used, ("number", columns.label)], texts, shown, numbers=numbers)
        problem = {MULTI_LABEL: "any number of labels a text", SINGLE_LABEL: "one label a text"}[found.kind]
        counts = found.counts()
        classes = Counter({name: counts[name] for name in found.classes()})
        label_columns = ", ".join(loading.words(self.args.label_columns)) or columns.label
        return View(problem, [*used, ("label", label_columns)], texts, shown, classes, notes=found.notes)

    def config_kwargs(self) -> dict[str, object]:
        """Labels as the training data have them."""
        where = f"The column {self.columns.label!r}"
        return Labels.from_values(self.labels["train"], where, loading.words(self.args.class_names)).config_kwargs()

    def start_head(self, model: PreTrainedModel, missing: Collection[str]) -> None:
        """Where texts have several labels, a new head starts at their frequencies."""
        from hf_tinybert.models import head_init

        of_model = Labels.from_config(model.config)
        if of_model.several:
            head_init.start_at_frequencies(model, missing, self._label_sets("train", of_model))

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Token ids, and label ids as the model counts them."""
        of_model, columns = Labels.from_config(config), self.columns

        def tokenize(batch: types.Columns) -> types.Columns:
            pair = batch[columns.pair] if columns.pair else None
            return dict(tokenizer(batch[columns.text], pair, truncation=True, max_length=self.args.max_length))

        encoded = DatasetDict()
        for name, dataset in self.examples.items():
            ids = self._label_ids(name, of_model)[: len(dataset)]
            tokens = dataset.map(
                tokenize, batched=True, remove_columns=dataset.column_names, desc=f"Tokenising {name}"
            )
            encoded[name] = tokens.add_column("labels", ids)
        leading, metric = metrics.for_labels(of_model.is_regression, of_model.several)
        return Encoded(encoded, loading.collator(tokenizer), leading, dict.fromkeys(encoded, metric))

    def check_labels(self, config: PretrainedConfig) -> None:
        """Refuse labels that a model does not know."""
        of_model = Labels.from_config(config)
        for name in self.splits if not of_model.is_regression else ():
            self._ids(name, of_model)

    def _label_ids(self, name: str, of_model: Labels) -> list[int] | list[float] | list[list[float]]:
        """Class ids, numbers, or rows of 0 and 1."""
        found = self.labels[name]
        if found.kind != of_model.kind:
            raise ValueError(
                f"{self.sources[name].name}: the labels are those of a {found.kind}, and the model was trained for "
                f"{of_model.kind}."
            )
        if of_model.is_regression:
            return [value for value in found.values if isinstance(value, float)]
        if of_model.several:
            count = len(of_model.names or ())
            return [[float(index in ids) for index in range(count)] for ids in self._label_sets(name, of_model)]
        ids = self._ids(name, of_model)
        return [ids[str(value)] for value in found.values]

    def _label_sets(self, name: str, of_model: Labels) -> list[list[int]]:
        """The class ids of every row of a multi-label split."""
        ids = self._ids(name, of_model)
        return [[ids[one] for one in value] for value in self.labels[name].values if isinstance(value, list)]

    def _ids(self, name: str, of_model: Labels) -> Mapping[str, int]:
        """The model's class id of every label of a split."""
        found, source, given = self.labels[name], f"The {name} data", loading.words(self.args.class_names)
        known = flat(self.labels["train"].values) if "train" in self.labels and self.config is None else []
        counts = found.counts()
        unknown = sorted(counts.keys() - known) if known and name != "train" and not of_model.several else []
        if not unknown or len(unknown) == len(counts):
            return class_ids(counts, of_model.names or (), source, given)
        logger.warning(
            f"{sum(counts[one] for one in unknown)} rows of the {name} data have labels that the training data does "
            f"not have ({', '.join(unknown[:5])}): every prediction of them counts as wrong."
        )
        there = class_ids(counts.keys() - set(unknown), of_model.names or (), source, given)
        return there | dict.fromkeys(unknown, _UNKNOWN)
