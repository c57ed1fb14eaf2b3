"""The teacher's logits by row, computed during the first epoch that needs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import logging

from hf_tinybert.teacher.cache import files
from hf_tinybert.utils.files import remove_partial

logger = logging.get_logger(__name__)


class LogitsTable:
    """Logits of rows (or of their tokens), in memory while training, in a file of each process afterwards.

    Reading and writing a batch needs no device synchronisation: the host keeps track of the rows that are filled.

    Args:
        folder: of this key alone.
        key: that the files must have in their headers.
        lengths: vectors of a row, `[N]`: 1, or its real positions in token-level tasks.
        classes: C.
        device: of the table.
        name: of this process's file, the same in the next run.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        lengths: NDArray[np.int64],
        classes: int,
        device: torch.device,
        name: str,
    ) -> None:
        """Read the files of earlier runs."""
        self.folder = folder
        self._key = key
        self._offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._values = torch.zeros(int(self._offsets[-1]), classes, device=device)
        self._filled = np.zeros(len(lengths), dtype=bool)
        self._path = folder / f"logits-{name}.safetensors"
        self._dirty = False
        self.refresh()

    @property
    def complete(self) -> bool:
        """Whether every row is filled."""
        return bool(self._filled.all())

    def get(self, rows: Sequence[int]) -> Tensor | None:
        """The logits of some rows, `[n, C]` or `[T, C]`, or None if one of the rows is not filled."""
        if not self._filled[list(rows)].all():
            return None
        return self._values.index_select(0, self._positions(rows))

    def put(self, rows: Sequence[int] | NDArray[np.int64], logits: Tensor) -> None:
        """Fill some rows with logits `[n, C]` or `[T, C]`; rows that are filled already do not change."""
        numbers = np.asarray(rows, dtype=np.int64)
        new = ~self._filled[numbers]
        if not new.all():
            kept = np.flatnonzero(np.repeat(new, self._sizes(numbers)))
            logits = logits.index_select(0, torch.from_numpy(kept).to(logits.device))
            numbers = numbers[new]
        if len(numbers):
            values = logits.float().to(self._values.device)
            self._values.index_copy_(0, self._positions(numbers), values)
            self._filled[numbers] = True
            self._dirty = True

    def flush(self) -> None:
        """Write this process's file, if it has new rows."""
        if not self._dirty:
            return
        rows = np.flatnonzero(self._filled)
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        values = self._values.cpu() if self.complete else self._values.index_select(0, self._positions(rows)).cpu()
        with FileLock(str(locks / f"{self._path.stem}.lock")):  # another run may have a process of this name
            remove_partial(self._path)
            files.write(self._path, {"rows": torch.from_numpy(rows), "values": values}, self._key)
        self._dirty = False

    def refresh(self) -> None:
        """Read what other processes, or earlier runs, have written."""
        for path in sorted(self.folder.glob("logits-*.safetensors")):
            try:
                tensors = files.read(path, None, self._key)
                rows, values = tensors["rows"].numpy(), tensors["values"]
                if rows.size and (rows.min() < 0 or rows.max() >= len(self._filled)):
                    raise files.Damaged("its rows are not of these data")
            except (files.Damaged, FileNotFoundError, KeyError) as error:
                logger.warning(f"{path} is damaged ({error}) and is not used.")
                path.unlink(missing_ok=True)
                continue
            dirty = self._dirty
            self.put(rows, values)
            self._dirty = dirty

    def _sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        sizes: NDArray[np.int64] = self._offsets[rows + 1] - self._offsets[rows]
        return sizes

    def _positions(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """The indices of some rows' vectors in the table."""
        numbers = np.asarray(rows, dtype=np.int64)
        sizes = self._sizes(numbers)
        before = np.cumsum(sizes) - sizes
        positions = np.repeat(self._offsets[numbers] - before, sizes) + np.arange(sizes.sum())
        return torch.from_numpy(positions).to(self._values.device, non_blocking=True)
