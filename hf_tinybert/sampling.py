"""Batches of similar length whose order depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """transformers' length grouping with a seed and an epoch.

    The stock sampler draws from the global random state, so that batches differ after a resume, and processes
    may disagree about them. Here every process and every resumed run gets the same order.

    Args:
        batch_size: sequences of a global batch (all processes and accumulation steps).
        lengths: length of every example.
        seed: seed of the order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        """Keep the lengths; nothing is drawn yet."""
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, as the Trainer's data loader does before each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the epoch's order."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def lengths_of(dataset: Any, column: str, length_column: str) -> list[int]:
    """The length of every example of a map-style data set.

    Args:
        dataset: rows are mappings.
        column: the model's main input, `input_ids` for text.
        length_column: a column that already holds lengths, used where the data set has it.

    Raises:
        ValueError: rows have no such column.
    """
    names = getattr(dataset, "column_names", None) or ()
    if isinstance(dataset, Dataset) and length_column in names:
        return [int(length) for length in dataset[length_column]]
    if isinstance(dataset, Dataset) and column in names:
        return _arrow_lengths(dataset, column)
    try:
        return [len(dataset[index][column]) for index in range(len(dataset))]
    except (KeyError, TypeError, IndexError):
        raise ValueError(f"Grouping by length needs rows with {column!r}, or a column {length_column!r}.") from None


def _arrow_lengths(dataset: Dataset, column: str) -> list[int]:
    """Lengths read from Arrow's offsets, without making Python lists of the rows."""
    lengths: list[int] = []
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        lengths += pyarrow.compute.list_value_length(table[column]).to_pylist()
    return lengths
