"""Masked language modelling on plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from datasets import DatasetDict

from hf_tinybert.data import column_names
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.tasks.task import Encoded, LazyAutoClass, Task, View
from hf_tinybert.utils.types import Columns

if TYPE_CHECKING:  # data are read without models
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedTokenizerBase


class FillMask(Task):
    """Texts whose tokens are masked at random, anew in every batch, and predicted."""

    auto = LazyAutoClass("AutoModelForMaskedLM")

    def _check(self, splits: DatasetDict) -> DatasetDict:
        first, source = self.first(splits)
        self.text = pick_column(first, self.args.text_column, column_names.TEXT[:-1], "text", "--text-column", source)
        return DatasetDict({name: self.with_texts(name, dataset, [self.text]) for name, dataset in splits.items()})

    def view(self, split: str) -> View:
        """The texts of a split."""
        return View("masked words", [("text", self.text)], [(text,) for text in self.splits[split][self.text]])

    def config_kwargs(self) -> dict[str, object]:
        """Nothing: the classes are the vocabulary."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Token ids; the collator masks 15% of them, as BERT's authors did."""
        from transformers import DataCollatorForLanguageModeling

        if tokenizer.mask_token is None:
            raise ValueError("Masked language modelling needs a tokenizer with a mask token.")

        def tokenize(batch: Columns) -> Columns:
            return dict(tokenizer(batch[self.text], truncation=True, max_length=self.args.max_length))

        encoded = DatasetDict(
            {
                name: dataset.map(
                    tokenize, batched=True, remove_columns=dataset.column_names, desc=f"Tokenising {name}"
                )
                for name, dataset in self.examples.items()
            }
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, pad_to_multiple_of=8)
        return Encoded(encoded, collator, "accuracy", dict.fromkeys(encoded, _masked_accuracy), metrics.most_likely)


def _masked_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Masked-token accuracy."""
    predicted, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": float((predicted == labels)[labels != -100].mean())}
