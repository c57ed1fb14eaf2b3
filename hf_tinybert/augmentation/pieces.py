"""Candidates of a data set, found and kept piece by piece, by however many processes there are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from filelock import FileLock, Timeout
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from hf_tinybert.augmentation.rows import FOUND
from hf_tinybert.saving import file_beside, remove_partial


class Pieces:
    """A data set cut into pieces of consecutive rows, and what is kept of each.

    Args:
        dataset: the data.
        columns: those that are looked at; their values are part of the key.
        key: of the finder.
        rows_at_once: rows of a piece.
        folder: where pieces are kept. Default: hf_tinybert/augmentation in `HF_HOME`.
    """

    def __init__(
        self, dataset: Dataset, columns: Sequence[str], key: str, rows_at_once: int, folder: str | Path | None
    ) -> None:
        """Find the folder of this data set and this finder."""
        self._dataset, self._columns = dataset, list(columns)
        self._bounds = [
            (start, min(start + rows_at_once, len(dataset))) for start in range(0, len(dataset), rows_at_once)
        ]
        name = hashlib.sha256(json.dumps([key, _digest(dataset, self._columns), rows_at_once]).encode()).hexdigest()
        self.folder = Path(folder or Path(HF_HOME) / "hf_tinybert" / "augmentation") / name

    def ensure(self, find: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]) -> Dataset:
        """The data set with its candidates; a piece that is missing is found by whoever takes its lock first."""
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        waiting = list(range(len(self._bounds)))
        with tqdm(total=len(self._dataset), unit=" rows", desc="Finding candidates") as progress:
            while waiting:
                for number in list(waiting):
                    if not self._path(number).is_file():
                        try:
                            with FileLock(str(self.folder / "locks" / f"{number}.lock"), timeout=0):
                                if not self._path(number).is_file():
                                    self._find(number, find)
                        except Timeout:
                            continue
                    first, last = self._bounds[number]
                    progress.update(last - first)
                    waiting.remove(number)
                if waiting:
                    time.sleep(0.2)
        if not self._bounds:
            return self._dataset.add_column(FOUND, [])
        found = concatenate_datasets([Dataset.from_parquet(str(self._path(n))) for n in range(len(self._bounds))])
        return concatenate_datasets([self._dataset, found], axis=1)

    def _find(self, number: int, find: Callable[[dict[str, list[Any]]], dict[str, list[Any]]]) -> None:
        first, last = self._bounds[number]
        batch = self._dataset.select_columns(self._columns)[first:last]
        remove_partial(self._path(number))
        with file_beside(self._path(number)) as file:
            Dataset.from_dict(find(batch)).to_parquet(str(file))

    def _path(self, number: int) -> Path:
        return self.folder / f"candidates-{number:05d}-of-{len(self._bounds):05d}.parquet"


def _digest(dataset: Dataset, columns: Sequence[str]) -> str:
    total = hashlib.sha256(json.dumps(list(columns)).encode())
    for batch in dataset.select_columns(list(columns)).with_format(None).iter(batch_size=10_000):
        total.update(json.dumps([batch[name] for name in columns], ensure_ascii=False).encode())
    return total.hexdigest()
