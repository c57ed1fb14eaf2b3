"""A sample of the training data from which a student is initialised (see `hf_tinybert.student.teacher_init`)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_tinybert.utils.types import AnyDataset

#: Examples and tokens at most.
_EXAMPLES, _TOKENS = 1024, 32_768
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
#: A tokenised example: numbers by column.
Tokenised: TypeAlias = Mapping[str, Sequence[int]]


def sample_calibration_examples(dataset: AnyDataset) -> list[Tokenised]:
    """A random sample of the training data, of as many examples as fit when all are padded to the longest.

    The sample is random because augmented data hold the variants of a text one after another. A stream cannot be
    sampled: its first examples are taken.

    Args:
        dataset: of tokenised examples, with `input_ids`.
    """
    examples: list[Tokenised] = []
    longest = 0
    for example in itertools.islice(_shuffled(dataset), _EXAMPLES):
        longest = max(longest, len(example["input_ids"]))
        if examples and longest * (len(examples) + 1) > _TOKENS:
            break
        examples.append(example)
    return examples


def sample_calibration_batch(dataset: AnyDataset | None, tokenizer: object) -> dict[str, Tensor] | None:
    """Such a sample as a batch of a model's inputs; `None` if the data are not tokenised or there is no tokenizer.

    Args:
        dataset: the training data, or `None`.
        tokenizer: that pads; anything but a tokenizer counts as none.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or dataset is None:
        return None
    first = next(_shuffled(dataset), None)
    if not isinstance(first, Mapping) or "input_ids" not in first:
        return None
    rows = [
        {name: example[name] for name in _INPUTS if name in example}
        for example in sample_calibration_examples(dataset)
    ]
    padded = tokenizer.pad(rows, pad_to_multiple_of=8, return_tensors="pt")
    return {name: torch.as_tensor(value) for name, value in padded.items()}


def _shuffled(dataset: AnyDataset) -> Iterator[Tokenised]:
    """Examples in the order of a draw with a fixed seed; of a stream in their own order."""
    streams = isinstance(dataset, torch.utils.data.IterableDataset)  # which may have a length
    if streams or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        return iter(dataset)
    count = len(dataset)
    return (dataset[i] for i in random.Random(0).sample(range(count), min(count, _EXAMPLES)))
