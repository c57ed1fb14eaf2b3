"""Tags of words: entities, parts of speech."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, DatasetDict, LargeList, List
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from hf_tinybert.data import loading
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.models.loading import loses_spaces
from hf_tinybert.tasks.label_names import Labels, named
from hf_tinybert.tasks.task import Encoded, Metric, Task

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "pos_tags")
#: Label of word pieces and special tokens that no loss and no metric looks at.
IGNORED = -100


class TokenClassification(Task):
    """A tag for each word; of a word's pieces the first one carries it."""

    auto = AutoModelForTokenClassification
    single_words = True

    def _check(self, splits: DatasetDict) -> DatasetDict:
        first = next(iter(splits.values()))
        self.words = pick_column(first, self.args.text_column, _WORDS, "words", "--text-column")
        self.tags = pick_column(first, self.args.label_column, _TAGS, "tags", "--label-column")
        for name, dataset in splits.items():
            loading.require_columns(name, dataset, (self.words, self.tags))
            for column in (self.words, self.tags):
                if not isinstance(dataset.features[column], List | LargeList):
                    raise ValueError(
                        f"The {name} data's column {column!r} must hold a list for each text, of words or of tags."
                    )
            for row, (words, tags) in enumerate(zip(dataset[self.words], dataset[self.tags], strict=True), start=1):
                if len(words) != len(tags):
                    raise ValueError(f"The {name} data has {len(words)} words and {len(tags)} tags in row {row}.")
        return splits

    def config_kwargs(self) -> dict[str, object]:
        """Tags as the training data have them, sorted unless they are a ClassLabel."""
        return named(Labels.from_dataset(self.splits["train"], self.tags).names or ())

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Word pieces, and the tag of each word at its first piece."""
        if not tokenizer.is_fast:
            raise ValueError("Token classification needs a fast tokenizer, which knows the words of its pieces.")
        if loses_spaces(tokenizer):
            raise ValueError(
                "This tokenizer would read words without the space that belongs to them: load it with "
                "add_prefix_space=True."
            )
        names = [config.id2label[index] for index in range(config.num_labels)]
        metrics.check_tags(names)
        ids = {name: index for index, name in enumerate(names)}

        def tokenize(batch: dict[str, list]) -> dict[str, list]:
            pieces = tokenizer(
                batch[self.words], is_split_into_words=True, truncation=True, max_length=self.args.max_length
            )
            labels = [_first_pieces(pieces.word_ids(row), tags) for row, tags in enumerate(batch["tag_ids"])]
            return {**pieces, "labels": labels}

        encoded = DatasetDict()
        for name, dataset in self.examples.items():
            tag_ids = _tag_ids(dataset, name, self.tags, ids)
            rows = dataset.select_columns([self.words]).add_column("tag_ids", tag_ids)
            encoded[name] = rows.map(
                tokenize, batched=True, remove_columns=rows.column_names, desc=f"Tokenising {name}"
            )
        collator = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8)
        leading = "f1" if metrics.are_entities(names) else "accuracy"
        return Encoded(encoded, collator, leading, dict.fromkeys(encoded, metric_of(names)), metrics.most_likely)


def metric_of(names: list[str]) -> Metric:
    """The accuracy over words and, for tags such as B-person, the F1 of whole entities."""

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        chosen, gold = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return metrics.tags(chosen, gold, names)

    return measure


def _tag_ids(dataset: Dataset, name: str, column: str, ids: dict[str, int]) -> list[list[int]]:
    feature = dataset.features[column].feature
    rows = dataset[column]
    if hasattr(feature, "names"):
        rows = [[feature.names[tag] for tag in tags] for tags in rows]
    unknown = sorted({str(tag) for tags in rows for tag in tags} - ids.keys())
    if unknown:
        raise ValueError(
            f"The {name} data has {len(unknown)} tag(s) that the model was not trained for: {', '.join(unknown[:5])}. "
            f"It knows: {', '.join(ids)}."
        )
    return [[ids[str(tag)] for tag in tags] for tags in rows]


def _first_pieces(words: list[int | None], tags: list[int]) -> list[int]:
    """The tag of each word at its first piece, `IGNORED` elsewhere."""
    labels, before = [], None
    for word in words:
        labels.append(IGNORED if word is None or word == before else tags[word])
        before = word
    return labels
