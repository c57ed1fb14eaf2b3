"""Sentence encoders: one vector for a text, learnt from the teacher's alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets import Dataset, DatasetDict

from hf_tinybert.data import column_names, loading
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.label_values import REGRESSION, LabelOptions
from hf_tinybert.data.labels import read_labels
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.tasks.task import Encoded, LazyAutoClass, Metric, Task, View

if TYPE_CHECKING:  # data are read without models
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedTokenizerBase


class FeatureExtraction(Task):
    """Texts, or pairs of texts, without labels; pairs with a number to evaluate on measure how well cosines rank them.

    Every text of a pair is an example of its own.
    """

    auto = LazyAutoClass("AutoModel")
    needs_teacher = True
    of_texts = True

    def _check(self, splits: DatasetDict) -> DatasetDict:
        first, source = self.first(splits)
        self.text, self.pair = loading.text_columns(first, self.args, source)
        columns = [column for column in (self.text, self.pair) if column]
        return DatasetDict({name: self.with_texts(name, dataset, columns) for name, dataset in splits.items()})

    def view(self, split: str) -> View:
        """The texts of a split."""
        used = [("text", self.text), *([("second text", self.pair)] if self.pair else [])]
        texts = list(zip(*self._texts(self.splits[split]), strict=True))
        return View("vectors of texts", used, texts)

    def config_kwargs(self) -> dict[str, object]:
        """Nothing: there are no labels."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Token ids of every text, and of what is evaluated on the metric."""
        scores = {name: self._scores(name, dataset) for name, dataset in self.examples.items() if name != "train"}
        scored = any(values is not None for values in scores.values())
        if scored:
            metrics.check_ranking()
        encoded, measures = DatasetDict(), {}
        for name, dataset in self.examples.items():
            texts = [text for row in zip(*self._texts(dataset), strict=True) for text in row]
            values = scores.get(name)
            if values is None:
                texts = list(dict.fromkeys(texts))
            encoded[name] = Dataset.from_dict(dict(tokenizer(texts, truncation=True, max_length=self.args.max_length)))
            measures[name] = metrics.vector_cosine if values is None else ranking_of(values)
        return Encoded(encoded, loading.collator(tokenizer), "spearman" if scored else "cosine", measures)

    def _texts(self, dataset: Dataset) -> list[Sequence[str]]:
        return [dataset[column] for column in (self.text, self.pair) if column]

    def _scores(self, name: str, dataset: Dataset) -> list[float] | None:
        """The numbers of pairs, where a split has them."""
        labelled = column_names.first(dataset.column_names, column_names.LABEL) is not None
        if self.pair is None or (not labelled and self.args.label_column is None):
            return None
        column = pick_column(dataset, self.args.label_column, column_names.LABEL, "label", "--label-column")
        options = LabelOptions(kind=REGRESSION, decimal=self.args.decimal, column_given=True)
        found = read_labels(dataset, column, options, InvalidRows(self.sources[name].name, skip=False))
        if found is None:
            return None
        return [value for value in found.values if isinstance(value, float)]


def ranking_of(scores: Sequence[float]) -> Metric:
    """Spearman's rank correlation of scores and cosines; the two vectors of a pair follow each other."""

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        return metrics.vector_ranking(prediction, scores)

    return measure
