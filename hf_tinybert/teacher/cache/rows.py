"""Training rows that know their number, and how to recognise them: lengths, content, unchanged ids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from hf_tinybert.data.sampler import token_counts

#: The column of a row's number, and the key of the numbers in a batch (a tuple of int, never a tensor: the host
#: looks rows up without waiting for the device).
ROW = "teacher_row"
#: The key of what was read from the cache for a batch.
KNOWLEDGE = "teacher_knowledge"

_CHUNK = 10_000


class ChangedRows(ValueError):
    """A collator does not leave the token ids of its rows alone."""


def why_not(dataset: Any) -> str | None:
    """Why the rows of a data set cannot be known again, or None if they can."""
    if not isinstance(dataset, Dataset):
        return f"the training data are a {type(dataset).__name__}, and only a datasets.Dataset has lasting rows"
    if dataset.format["type"] == "custom":
        return "the data set computes its rows on every access (set_transform)"
    if "input_ids" not in dataset.column_names:
        return f"the data set has no column 'input_ids', only {', '.join(dataset.column_names)}"
    if len(dataset) == 0:
        return "the data set is empty"
    return None


def numbers_of(batch: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The numbers of a batch's rows, or None if it does not come from the training data.

    Raises:
        ValueError: there are more or fewer numbers than rows.
    """
    numbers: tuple[int, ...] | None = batch.get(ROW)
    if numbers is not None and len(numbers) != len(batch["input_ids"]):
        raise ValueError(
            f"A batch of {len(batch['input_ids'])} sequences carries the numbers of {len(numbers)} rows: something "
            "cuts batches after they are collated, which a teacher cache cannot follow. Use teacher_cache='none'."
        )
    return numbers


def real_lengths(dataset: Dataset) -> np.ndarray:
    """Real positions of every row, `[N]`: the sum of its attention mask, where it has one."""
    if "attention_mask" not in dataset.column_names:
        return np.asarray(token_counts(dataset), dtype=np.int64)
    lengths: list[np.ndarray] = []
    for values, sizes in _lists(dataset, "attention_mask"):
        ends = np.concatenate([[0], np.cumsum(values != 0)])[np.concatenate([[0], np.cumsum(sizes)])]
        lengths.append(np.diff(ends))
    return np.concatenate(lengths).astype(np.int64)


def digest(dataset: Dataset, columns: Iterable[str]) -> str:
    """SHA-256 over the values of some columns, row by row, in hexadecimal."""
    total = hashlib.sha256()
    for column in sorted(columns):
        total.update(f"{column} {len(dataset)}".encode())
        for values, sizes in _lists(dataset, column):
            total.update(sizes.astype(np.int64).tobytes())
            whole = values.dtype.kind in "iub"
            total.update(values.astype(np.int64 if whole else np.float64).tobytes())
    return total.hexdigest()


def numbered(dataset: Dataset) -> Dataset:
    """The data set with a column of row numbers, whatever its format shows."""
    shown = dataset.format
    with_rows = dataset.with_format(None).add_column(ROW, range(len(dataset)))
    columns = None if len(shown["columns"]) == len(dataset.column_names) else [*shown["columns"], ROW]
    return with_rows.with_format(shown["type"], columns=columns, **shown["format_kwargs"])


class NumberedCollator:
    """A user's collator whose batches carry their rows' numbers, and what is known of them.

    Args:
        collator: makes a batch of tensors from a list of rows.
        read: from row numbers and mask `[B, S]` to tensors, or None; called in the data loader's workers.
    """

    def __init__(
        self, collator: Any, read: Callable[[Sequence[int], Tensor], dict[str, Tensor]] | None = None
    ) -> None:
        """Keep both."""
        self.collator = collator
        self.read = read

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate, check that the rows are what they were, and add what is known.

        Raises:
            ChangedRows: the collator changes token ids, so that what is known of the row does not hold.
        """
        rows = tuple(int(example[ROW]) for example in examples)
        plain = [{name: value for name, value in example.items() if name != ROW} for example in examples]
        batch = self.collator(plain)
        mask = mask_of(batch)
        check_unchanged(plain, batch["input_ids"], mask)
        known = {} if self.read is None else {KNOWLEDGE: self.read(rows, mask)}
        return {**batch, ROW: rows, **known}


def mask_of(batch: Mapping[str, Any]) -> Tensor:
    """The attention mask of a batch, or one of its own if it has none."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def check_unchanged(examples: Sequence[Mapping[str, Any]], ids: Tensor, mask: Tensor) -> None:
    """Check that a batch holds the token ids of its rows, in their order.

    Raises:
        ChangedRows: it does not.
    """
    expected = []
    for example in examples:
        row = np.asarray(example["input_ids"])
        expected.append(row if "attention_mask" not in example else row[np.asarray(example["attention_mask"]) != 0])
    if not np.array_equal(np.concatenate(expected), ids[mask.bool()].numpy()):
        raise ChangedRows(
            "the data collator changes the token ids of the rows (masking, truncation, ...), so what the teacher said "
            "of a row before does not hold; use teacher_cache='none'"
        )


def _lists(dataset: Dataset, column: str) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Chunks of a column of number lists as (all values, length of each list)."""
    for table in dataset.with_format("arrow").select_columns([column]).iter(batch_size=_CHUNK):
        lists = pa.chunked_array(table[column])
        if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
            lists = lists.cast(pa.list_(lists.type.value_type if hasattr(lists.type, "value_type") else pa.int64()))
        yield pc.list_flatten(lists).to_numpy(), pc.list_value_length(lists).to_numpy()
