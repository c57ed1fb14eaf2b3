"""Typical text for a student's start (see `hf_tinybert.student.teacher_init`), taken from the training data."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

#: Examples and tokens at most.
_EXAMPLES, _TOKENS = 1024, 32_768
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def sample_calibration_examples(dataset: Any) -> list[Any]:
    """Examples from all over the training data, as many as fit when all are padded to the longest.

    Variants of a text stand beside it in augmented data: the first examples would be few texts. Of a stream they are
    the first, which is all that can be had.

    Args:
        dataset: of tokenised examples, with `input_ids`.
    """
    found: list[Any] = []
    longest = 0
    for example in itertools.islice(_spread(dataset), _EXAMPLES):
        longest = max(longest, len(example["input_ids"]))
        if found and longest * (len(found) + 1) > _TOKENS:
            break
        found.append(example)
    return found


def sample_calibration_batch(dataset: Any, tokenizer: Any) -> dict[str, Tensor] | None:
    """Such examples as a batch of a model's inputs, or `None` where they are not tokenised or there is no tokenizer.

    Args:
        dataset: the training data, or `None`.
        tokenizer: that pads.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or dataset is None:
        return None
    first = next(_spread(dataset), None)
    if not isinstance(first, Mapping) or "input_ids" not in first:
        return None
    rows = [
        {name: example[name] for name in _INPUTS if name in example}
        for example in sample_calibration_examples(dataset)
    ]
    padded = tokenizer.pad(rows, pad_to_multiple_of=8, return_tensors="pt")
    return {name: torch.as_tensor(value) for name, value in padded.items()}


def _spread(dataset: Any) -> Iterator[Any]:
    """The examples in the order of a fixed draw, or of a stream as they come."""
    streams = isinstance(dataset, torch.utils.data.IterableDataset)  # which may have a length
    if streams or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return iter(dataset)
    count = len(dataset)
    return (dataset[i] for i in random.Random(0).sample(range(count), min(count, _EXAMPLES)))
