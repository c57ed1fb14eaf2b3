"""A filter of variants for which a teacher does not predict the label of their row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from datasets import ClassLabel, Dataset, IterableDataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation.rows import AUGMENTED, text_columns
from hf_tinybert.data.class_ids import class_ids
from hf_tinybert.data.column_names import LABEL, first
from hf_tinybert.data.label_values import name_of, text_of
from hf_tinybert.models.loading import freeze
from hf_tinybert.utils.hashing import weights_digest
from hf_tinybert.utils.types import Columns

_ROWS_AT_ONCE = 1000


def keep_labels(
    dataset: Dataset | IterableDataset,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
    label_names: Sequence[str] = (),
) -> Dataset | IterableDataset:
    """Drop the variants for which the teacher predicts another label than their row's; all originals are kept.

    Args:
        dataset: the output of `TextAugmenter.map`.
        teacher: a single-label classifier of texts with the labels of the data.
        tokenizer: its tokenizer.
        columns: the text column, or the two of a pair, in the order of the teacher's training data. Default: the usual
            names.
        label_column: names as in the teacher's configuration, or class ids where these names say nothing of numbers
            (see `hf_tinybert.data.class_ids`). Default: the first of the usual names (`label`, `labels`, `intent`,
            `score`).
        batch_size: texts in one forward pass of the teacher.
        label_names: of a teacher whose classes have no names but `LABEL_0`, ...

    Raises:
        ValueError: the data were not augmented, have no labels or a label that the teacher does not have, or hold
            lists of words; or the teacher is not a single-label classifier.
    """
    features = dataset.features or {}
    if AUGMENTED not in features:
        raise ValueError(f"The data set has no column {AUGMENTED!r}: augment it first, then drop variants.")
    if teacher.config.num_labels < 2 or teacher.config.problem_type not in (None, "single_label_classification"):
        raise ValueError(
            f"Filtering variants needs a single-label classifier as teacher, got one with {teacher.config.num_labels} "
            f"label(s) and problem_type {teacher.config.problem_type!r}."
        )
    names = text_columns(dataset, columns)
    if any(not hasattr(features[name], "dtype") for name in names):
        raise ValueError(
            f"The columns {', '.join(names)} hold lists of words, whose variants cannot be filtered: the teacher "
            "classifies whole texts."
        )
    if label_column is None:
        label_column = first(features, LABEL)
    if label_column is None or label_column not in features:
        raise ValueError(f"Name the column with the labels: there are {', '.join(features)}.")
    inner = features[label_column]
    class_names = inner.names if isinstance(inner, ClassLabel) else None
    known = [teacher.config.id2label[index] for index in range(teacher.config.num_labels)]
    labels = _Labels(class_names, known, tuple(label_names))
    arguments = {
        "function": partial(
            _keeps,
            columns=names,
            label_column=label_column,
            labels=labels,
            teacher=freeze(teacher),
            tokenizer=tokenizer,
            batch_size=batch_size,
        ),
        "batched": True,
        "batch_size": _ROWS_AT_ONCE,
    }
    if isinstance(dataset, IterableDataset):
        return dataset.filter(**arguments)
    numbers = labels.numbers(dataset[label_column])
    fingerprint = Hasher.hash([dataset._fingerprint, names, label_column, numbers, weights_digest(teacher)])
    return dataset.filter(**arguments, new_fingerprint=fingerprint, desc="Filtering variants")


@dataclass(frozen=True)
class _Labels:
    """The labels of the rows, and the teacher's numbers for them.

    Attributes:
        names: of a ClassLabel.
        known: the names of the teacher's classes.
        given: the user's names of them.
    """

    names: Sequence[str] | None
    known: Sequence[str]
    given: tuple[str, ...]

    def text(self, label: object) -> str:
        """A label by its name."""
        return text_of(name_of(label, self.names))

    def numbers(self, labels: Iterable[object]) -> Mapping[str, int]:
        """The teacher's class of every label.

        Raises:
            ValueError: the teacher has no such class.
        """
        return class_ids({self.text(label) for label in labels}, self.known, "The data set", self.given)


@torch.inference_mode()
def _keeps(
    batch: Columns,
    columns: Sequence[str],
    label_column: str,
    labels: _Labels,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> list[bool]:
    """Which rows are kept."""
    wanted = [labels.text(label) for label in batch[label_column]]
    numbers = labels.numbers(batch[label_column])
    keep = [not augmented for augmented in batch[AUGMENTED]]
    variants = [row for row, original in enumerate(keep) if not original]
    variants.sort(key=lambda row: sum(len(str(batch[name][row])) for name in columns))
    for start in range(0, len(variants), batch_size):
        rows = variants[start : start + batch_size]
        texts = [[batch[name][row] for row in rows] for name in columns]
        inputs = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt").to(teacher.device)
        for row, predicted in zip(rows, teacher(**inputs).logits.argmax(-1).tolist(), strict=True):
            keep[row] = predicted == numbers[wanted[row]]
    return keep
