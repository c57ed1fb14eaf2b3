"""Training rows with their numbers, and what identifies them: lengths, content, unchanged ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsInt, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from hf_tinybert.data.sampler import token_counts
from hf_tinybert.utils.hashing import stream_digest
from hf_tinybert.utils.types import Batch, Collator, Example

#: The column of a row's number, and the key of the numbers in a batch (a tuple of int, never a tensor, so that the
#: host reads them without a device synchronisation).
ROW = "teacher_row"
#: The key of a batch's features that were read from the cache.
KNOWLEDGE = "teacher_knowledge"

_CHUNK = 10_000
#: Values of a column, of these types or narrower ones.
Numbers: TypeAlias = NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bool_]


class ChangedRows(ValueError):
    """A collator changes the token ids of its rows."""


def why_not(dataset: object) -> str | None:
    """Why the rows of a data set cannot be identified in a later epoch, or None if they can."""
    if not isinstance(dataset, Dataset):
        return f"the training data are a {type(dataset).__name__}, and only a datasets.Dataset has lasting rows"
    if dataset.format["type"] == "custom":
        return "the data set computes its rows on every access (set_transform)"
    if "input_ids" not in dataset.column_names:
        return f"the data set has no column 'input_ids', only {', '.join(dataset.column_names)}"
    if len(dataset) == 0:
        return "the data set is empty"
    return None


def numbers_of(batch: Batch) -> tuple[int, ...] | None:
    """The numbers of a batch's rows, or None if it does not come from the training data.

    Raises:
        ValueError: there are more or fewer numbers than rows.
    """
    numbers: object = batch.get(ROW)
    if numbers is None:
        return None
    assert isinstance(numbers, tuple | list)  # pinning memory makes a list of a tuple
    if len(numbers) != len(batch["input_ids"]):
        raise ValueError(
            f"A batch of {len(batch['input_ids'])} sequences carries the numbers of {len(numbers)} rows: something "
            "cuts batches after they are collated, which a teacher cache does not support. Use teacher_cache='none'."
        )
    return tuple(numbers)


def knowledge_of(batch: Batch) -> dict[str, Tensor]:
    """The features of a batch that were read from the cache."""
    knowledge: object = batch[KNOWLEDGE]
    assert isinstance(knowledge, dict)
    return knowledge


def real_lengths(dataset: Dataset) -> NDArray[np.int64]:
    """Real positions of every row, `[N]`: the sum of its attention mask, where it has one."""
    if "attention_mask" not in dataset.column_names:
        return np.asarray(token_counts(dataset), dtype=np.int64)
    lengths: list[NDArray[np.int64]] = []
    for values, sizes in _lists(dataset, "attention_mask"):
        ends = np.concatenate([[0], np.cumsum(values != 0)])[np.concatenate([[0], np.cumsum(sizes)])]
        lengths.append(np.diff(ends))
    return np.concatenate(lengths).astype(np.int64)


def digest(dataset: Dataset, columns: Iterable[str]) -> str:
    """SHA-256 over the values of some columns, row by row, in hexadecimal."""

    def parts() -> Iterator[str | bytes]:
        for column in sorted(columns):
            yield f"{column} {len(dataset)}"
            for values, sizes in _lists(dataset, column):
                yield sizes.astype(np.int64).tobytes()
                whole = values.dtype.kind in "iub"
                yield values.astype(np.int64 if whole else np.float64).tobytes()

    return stream_digest(parts())


def numbered(dataset: Dataset) -> Dataset:
    """The data set with a column of row numbers, also where its format selects columns."""
    shown = dataset.format
    with_rows = dataset.with_format(None).add_column(ROW, range(len(dataset)))
    columns = None if len(shown["columns"]) == len(dataset.column_names) else [*shown["columns"], ROW]
    return with_rows.with_format(shown["type"], columns=columns, **shown["format_kwargs"])


class NumberedCollator:
    """A user's collator whose batches also hold their rows' numbers and cached features.

    Args:
        collator: makes a batch of tensors from a list of rows.
        read: from row numbers and mask `[B, S]` to tensors, or None; called in the data loader's workers.
    """

    def __init__(
        self, collator: Collator, read: Callable[[Sequence[int], Tensor], dict[str, Tensor]] | None = None
    ) -> None:
        """Keep both."""
        self.collator = collator
        self.read = read

    def __call__(self, examples: Sequence[Example], /) -> dict[str, Tensor]:
        """Collate, check that the rows are unchanged, and add their numbers and features.

        Under `ROW` and `KNOWLEDGE`, the batch holds a tuple and a dict in place of a tensor.

        Raises:
            ChangedRows: the collator changes token ids, so that the cached features are not those of the row.
        """
        rows = tuple(_number(example) for example in examples)
        plain = [{name: value for name, value in example.items() if name != ROW} for example in examples]
        batch = self.collator(plain)
        mask = mask_of(batch)
        check_unchanged(plain, batch["input_ids"], mask)
        extra: dict = {ROW: rows}
        if self.read is not None:
            extra[KNOWLEDGE] = self.read(rows, mask)
        return {**batch, **extra}


def _number(example: Example) -> int:
    number = example[ROW]
    assert isinstance(number, SupportsInt)
    return int(number)


def mask_of(batch: Batch) -> Tensor:
    """The attention mask of a batch; all ones if it has none."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def check_unchanged(examples: Sequence[Example], ids: Tensor, mask: Tensor) -> None:
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
            "the data collator changes the token ids of the rows (masking, truncation, ...), so cached features do "
            "not fit them; use teacher_cache='none'"
        )


def _lists(dataset: Dataset, column: str) -> Iterator[tuple[Numbers, NDArray[np.int64]]]:
    """Chunks of a column of number lists as (all values, length of each list)."""
    for table in dataset.with_format("arrow").select_columns([column]).iter(batch_size=_CHUNK):
        lists = pa.chunked_array(table[column])
        if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
            lists = lists.cast(pa.list_(lists.type.value_type if hasattr(lists.type, "value_type") else pa.int64()))
        yield pc.list_flatten(lists).to_numpy(), pc.list_value_length(lists).to_numpy()
