"""Batches of similar length whose order depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.compute
import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from hf_tinybert.utils import compat
from hf_tinybert.utils.types import AnyDataset


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


def lengths_of(dataset: AnyDataset, length_column: str) -> list[int] | None:
    """The length of every example, or None where it cannot be known without computing every row.

    Args:
        dataset: the training data; lengths are known of a `datasets.Dataset` without a transform.
        length_column: a column that already holds lengths, used where the data set has it, else `input_ids`.
    """
    if not isinstance(dataset, Dataset) or dataset.format["type"] == "custom":
        return None
    if length_column in dataset.column_names:
        return [int(length) for length in dataset[length_column]]
    return token_counts(dataset)


def token_counts(dataset: Dataset, column: str = "input_ids") -> list[int] | None:
    """The number of token ids of every row, or None if there are none, without making Python lists of the rows."""
    if column not in dataset.column_names:
        return None
    lengths: list[int] = []
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        lengths += pyarrow.compute.list_value_length(table[column]).to_pylist()
    return lengths


def grouped_by_length(dataset: AnyDataset, args: TrainingArguments) -> SeededLengthGroupedSampler | None:
    """The sampler of a training set whose lengths are known, where the arguments ask for length grouping."""
    lengths = lengths_of(dataset, args.length_column_name) if compat.groups_by_length(args) else None
    if lengths is None:
        return None
    seed = args.data_seed if args.data_seed is not None else args.seed
    batch = args.train_batch_size * args.gradient_accumulation_steps * max(args.world_size, 1)
    return SeededLengthGroupedSampler(batch, lengths, seed)
