"""What is made of a data set, made and kept piece by piece, by however many processes there are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from datasets import Dataset, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from hf_tinybert.utils.files import file_beside, remove_partial
from hf_tinybert.utils.hashing import json_digest, stream_digest
from hf_tinybert.utils.types import Columns
from hf_tinybert.utils.work_sharing import share

#: Columns of some rows -> columns of what is made of them, however many rows that has.
Make: TypeAlias = Callable[[Columns], Columns]


class ResumableMap:
    """A data set cut into pieces of consecutive rows, and what is kept of each as an Arrow file.

    Args:
        dataset: the data, at least one row.
        columns: those that are looked at; their values are part of the key.
        key: changes with everything else that changes the result.
        rows_at_once: rows of a piece.
        folder: in which a folder is made for this data set and this key.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str], key: str, rows_at_once: int, folder: Path) -> None:
        """Find the folder of this data set and this key; nothing is written yet."""
        self._dataset = dataset.select_columns(list(columns)).with_format(None)
        self._bounds = [
            (start, min(start + rows_at_once, len(dataset))) for start in range(0, len(dataset), rows_at_once)
        ]
        name = json_digest([key, _digest(self._dataset), rows_at_once])
        self.folder = folder / name

    def ensure(self, make: Make, description: str, features: Features) -> Dataset:
        """What is made of all rows, in their order; a missing piece is made by whoever takes its lock first.

        Args:
            make: makes a piece; the same rows must always give the same.
            description: for the progress bar.
            features: of what is made.
        """
        with tqdm(total=len(self._dataset), unit=" rows", desc=description) as progress:

            def take(number: int) -> None:
                first, last = self._bounds[number]
                if not self._path(number).is_file():
                    self._write(number, make(self._dataset[first:last]), features)
                progress.update(last - first)

            share(range(len(self._bounds)), self.folder, take)
        return concatenate_datasets([Dataset.from_file(str(self._path(n))) for n in range(len(self._bounds))])

    def _write(self, number: int, made: Columns, features: Features) -> None:
        path = self._path(number)
        remove_partial(path)
        with file_beside(path) as file, ArrowWriter(path=str(file), features=features) as writer:
            writer.write_batch(dict(made))
            writer.finalize()

    def _path(self, number: int) -> Path:
        return self.folder / f"piece-{number:05d}-of-{len(self._bounds):05d}.arrow"


def _digest(dataset: Dataset) -> str:
    batches = (json.dumps(batch, ensure_ascii=False) for batch in dataset.iter(batch_size=10_000))
    return stream_digest(itertools.chain([json.dumps(dataset.column_names)], batches))
