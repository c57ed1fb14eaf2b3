"""The features of all rows on disk, in shards that several processes build in parallel."""

from __future__ import annotations

import shutil
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import logging

from hf_tinybert.teacher.cache import files
from hf_tinybert.teacher.cache.layout import DTYPES, Layout
from hf_tinybert.utils.files import remove_partial
from hf_tinybert.utils.work_sharing import share

logger = logging.get_logger(__name__)

#: From row numbers to their tokens `[T, width]` and logits `[n, C]`, `[T, C]` or None, all on the CPU.
Compute: TypeAlias = Callable[[Sequence[int]], tuple[Tensor, Tensor | None]]


class FeatureStore:
    """Shards of consecutive rows in one folder; rows are read through memory maps.

    Args:
        folder: of this key alone.
        key: that the shards must have in their headers.
        layout: of a token's features.
        lengths: real positions of every row, `[N]`.
        shard_bytes: approximate size of a shard.
    """

    def __init__(
        self, folder: Path, key: str, layout: Layout, lengths: NDArray[np.int64], shard_bytes: int = 256 * 2**20
    ) -> None:
        """Plan the shards; nothing is read or written yet."""
        self.folder = folder
        self.layout = layout
        self._key = key
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        sizes = lengths * layout.token_bytes + layout.row_bytes
        shard_of_row = (np.cumsum(sizes) - 1) // max(shard_bytes, 1)
        firsts = np.flatnonzero(np.diff(shard_of_row, prepend=-2)).tolist()
        self._bounds = list(zip(firsts, [*firsts[1:], len(lengths)], strict=True))
        self._firsts = firsts
        self._shard_sizes = [int(sizes[first:last].sum()) for first, last in self._bounds]
        self._open: dict[int, dict[str, Tensor]] = {}

    @property
    def total_bytes(self) -> int:
        """Size of all shards."""
        return sum(self._shard_sizes)

    @property
    def missing_bytes(self) -> int:
        """Size of the shards that do not exist yet."""
        return sum(size for index, size in enumerate(self._shard_sizes) if not self._path(index).is_file())

    def check_room(self) -> None:
        """Refuse to build shards for which the disk has no room.

        Raises:
            OSError: the missing shards are larger than the free space.
        """
        free = free_bytes(self.folder)
        if self.missing_bytes > free:
            raise OSError(
                f"The teacher's features take {readable(self.missing_bytes)} more in {self.folder}, where "
                f"{readable(free)} are free: use teacher_cache='logits', a smaller teacher_cache_dtype, or another "
                "teacher_cache_dir."
            )

    def ensure(self, compute: Compute, batch_size: int) -> None:
        """Check every shard, and build those that are missing or damaged.

        The first process to take a shard's lock builds it, be it of this run or another one; the others check what it
        has built. The lock of a killed process is released.

        Args:
            compute: runs the teacher.
            batch_size: rows at a time, of similar length.
        """

        def take(index: int) -> None:
            self._open[index] = self._checked(index) or self._built(index, compute, batch_size)

        share([index for index in range(len(self._bounds)) if index not in self._open], self.folder, take)

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """The tokens of some rows, `[T, width]`, in the order of the rows."""
        return torch.cat([self._slice(row, "tokens", per_token=True) for row in rows])

    def logits(self, rows: Sequence[int]) -> Tensor:
        """The logits of some rows, `[n, C]` or, of tokens, `[T, C]`."""
        return torch.cat([self._slice(row, "logits", self.layout.per_token) for row in rows])

    def _slice(self, row: int, name: str, per_token: bool) -> Tensor:
        index = bisect_right(self._firsts, row) - 1
        first = self._firsts[index]
        begin, end = row - first, row - first + 1
        if per_token:
            begin, end = (int(self._offsets[edge] - self._offsets[first]) for edge in (row, row + 1))
        if index not in self._open:  # in a data loader's worker that was not forked
            self._open[index] = files.read(self._path(index), self._shapes(index), self._key)
        return self._open[index][name][begin:end]

    def __getstate__(self) -> dict[str, object]:
        """The state without the memory maps, which another process opens again."""
        return self.__dict__ | {"_open": {}}

    def _path(self, index: int) -> Path:
        return self.folder / f"features-{index:05d}-of-{len(self._bounds):05d}.safetensors"

    def _shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        first, last = self._bounds[index]
        tokens = int(self._offsets[last] - self._offsets[first])
        shapes: dict[str, tuple[int, ...]] = {"tokens": (tokens, self.layout.width)}
        if self.layout.classes:
            shapes["logits"] = (tokens if self.layout.per_token else last - first, self.layout.classes)
        return shapes

    def _checked(self, index: int) -> dict[str, Tensor] | None:
        path = self._path(index)
        try:
            return files.read(path, self._shapes(index), self._key)
        except FileNotFoundError:
            return None
        except files.Damaged as error:
            logger.warning(f"{path} is damaged ({error}) and is built again.")
            path.unlink()
            return None

    def _built(self, index: int, compute: Compute, batch_size: int) -> dict[str, Tensor]:
        first, last = self._bounds[index]
        shapes = self._shapes(index)
        shard = {"tokens": torch.empty(shapes["tokens"], dtype=DTYPES[self.layout.dtype])}
        if "logits" in shapes:
            shard["logits"] = torch.empty(shapes["logits"])
        start, lengths = int(self._offsets[first]), np.diff(self._offsets)
        for batch in _batches(np.argsort(-lengths[first:last], kind="stable") + first, batch_size):
            tokens, logits = compute(batch)
            if not torch.isfinite(tokens).all():
                raise ValueError(
                    f"The teacher's features do not fit into {self.layout.dtype}: use teacher_cache_dtype='bfloat16' "
                    "or 'float32'."
                )
            position = 0
            for number, row in enumerate(batch):
                begin, end = (int(self._offsets[edge]) - start for edge in (row, row + 1))
                of_row = slice(position, position + end - begin)
                shard["tokens"][begin:end] = tokens[of_row]
                if logits is not None and self.layout.per_token:
                    shard["logits"][begin:end] = logits[of_row]
                elif logits is not None:
                    shard["logits"][row - first] = logits[number]
                position = of_row.stop
        path = self._path(index)
        remove_partial(path)
        files.write(path, shard, self._key)
        return files.read(path, shapes, self._key)


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def readable(size: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _batches(rows: NDArray[np.int64], size: int) -> list[list[int]]:
    return [rows[start : start + size].tolist() for start in range(0, len(rows), size)]
