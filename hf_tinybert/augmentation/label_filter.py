"""Variants on which a teacher no longer sees the label of their row are dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation.rows import AUGMENTED, text_columns
from hf_tinybert.data.column_names import LABEL
from hf_tinybert.models.loading import freeze
from hf_tinybert.utils.hashing import weights_digest

_ROWS_AT_ONCE = 1000


def keep_labels(
    dataset: Dataset | IterableDataset,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
) -> Dataset | IterableDataset:
    """Drop the variants for which the teacher predicts another label than their row's; originals all stay.

    Args:
        dataset: what `TextAugmenter.map` gave.
        teacher: fine-tuned for classifying texts, with the labels of the data.
        tokenizer: its tokenizer.
        columns: the text column, or the two of a pair, in the order in which the teacher read them. Default: those
            of the usual names.
        label_column: class numbers, or names as in the teacher's configuration. Default: the first of the usual names
            (`label`, `labels`, `intent`, `score`).
        batch_size: texts in one pass of the teacher.

    Raises:
        ValueError: the data were not augmented, have no labels or other labels than the teacher, are sentences cut
            into words, or the teacher is no classifier.
    """
    features = dataset.features or {}
    if AUGMENTED not in features:
        raise ValueError(f"The data set has no column {AUGMENTED!r}: augment it first, then drop variants.")
    if teacher.config.num_labels < 2 or teacher.config.problem_type not in (None, "single_label_classification"):
        raise ValueError("Variants can be dropped by a teacher that gives each text one of several labels only.")
    names = text_columns(dataset, columns)
    if any(not hasattr(features[name], "dtype") for name in names):
        raise ValueError("A teacher of whole texts cannot drop variants of sentences that are cut into words.")
    if label_column is None:
        label_column = next((name for name in LABEL if name in features), None)
    if label_column is None or label_column not in features:
        raise ValueError(f"Name the column with the labels: there are {', '.join(features)}.")
    told = {
        "function": partial(
            _keeps,
            columns=names,
            label_column=label_column,
            teacher=freeze(teacher),
            tokenizer=tokenizer,
            batch_size=batch_size,
        ),
        "batched": True,
        "batch_size": _ROWS_AT_ONCE,
    }
    if isinstance(dataset, IterableDataset):
        return dataset.filter(**told)
    fingerprint = Hasher.hash([dataset._fingerprint, names, label_column, weights_digest(teacher)])
    return dataset.filter(**told, new_fingerprint=fingerprint, desc="Asking the teacher")


@torch.inference_mode()
def _keeps(
    batch: Mapping[str, list[Any]],
    columns: Sequence[str],
    label_column: str,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> list[bool]:
    """Which rows stay."""
    keep = [not augmented for augmented in batch[AUGMENTED]]
    variants = [row for row, original in enumerate(keep) if not original]
    variants.sort(key=lambda row: sum(len(batch[name][row]) for name in columns))
    for start in range(0, len(variants), batch_size):
        rows = variants[start : start + batch_size]
        texts = [[batch[name][row] for row in rows] for name in columns]
        inputs = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt").to(teacher.device)
        for row, predicted in zip(rows, teacher(**inputs).logits.argmax(-1).tolist(), strict=True):
            keep[row] = predicted == _number(batch[label_column][row], teacher)
    return keep


def _number(label: Any, teacher: PreTrainedModel) -> int:
    known = teacher.config.label2id
    number = known.get(label) if isinstance(label, str) else label
    if not isinstance(number, int) or not 0 <= number < teacher.config.num_labels:
        raise ValueError(f"The label {label!r} is none of the teacher's: {', '.join(map(str, known))}.")
    return number
