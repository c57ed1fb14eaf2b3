"""Chooses the source of a run's teacher features: which cache, in which folder, and whether it saves time."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers.utils import logging

from hf_tinybert.models.features import Features
from hf_tinybert.teacher.cache import key as keys
from hf_tinybert.teacher.cache import layout, rows
from hf_tinybert.teacher.cache.layout import Layout
from hf_tinybert.teacher.cache.logits import LogitsTable
from hf_tinybert.teacher.cache.sources import CachedFeatures, CachedLogits
from hf_tinybert.teacher.cache.store import FeatureStore, free_bytes, readable
from hf_tinybert.teacher.source import OnlineTeacher, TeacherSource
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.types import AnyDataset, Collator, Example
from hf_tinybert.utils.work_sharing import default_folder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

#: Share of the disk's free space that `auto` does not use.
_LEAVE_FREE = 0.5
#: Relative difference up to which two outputs of the teacher count as equal; bfloat16 rounds to less.
_SAME = 0.1
#: Number of rows whose outputs alone and in a padded batch are compared.
_PADDED = 8


_BIASED = (
    "this teacher adds terms to its attention scores that depend on pairs of tokens, which a cache of tokens does not "
    "store"
)


@dataclass(frozen=True)
class Request:
    """A run's request for a cache.

    Attributes:
        choice: `none`, `logits`, `features` or `auto`.
        folder: of all caches.
        dtype: of features.
        dataset: the training data, with the columns that batches are made of.
        collator: makes batches of them.
        intermediate_passes: passes over the data in which layers are matched.
        prediction_passes: passes over the data in which logits are compared.
        joint: they are the same passes.
        batch_size: rows at a time while building.
        device: of the teacher.
        autocast: the mixed precision in which it runs.
        rank: of this process.
        processes: their number.
        agree: returns the first process's value in every process.
    """

    choice: str
    folder: Path
    dtype: str
    dataset: AnyDataset
    collator: Collator
    intermediate_passes: float
    prediction_passes: float
    joint: bool
    batch_size: int
    device: torch.device
    autocast: str = "no"
    rank: int = 0
    processes: int = 1
    agree: Callable[[tuple[str, str]], tuple[str, str]] = lambda value: value

    @classmethod
    def from_arguments(
        cls,
        args: DistillationTrainingArguments,
        dataset: AnyDataset,
        collator: Collator,
        passes: tuple[float, float],
        autocast: str,
    ) -> Request:
        """The request of a training run.

        Args:
            args: of the run.
            dataset: the training data, with the columns that batches are made of.
            collator: makes batches of them.
            passes: over the data, for layers and for logits.
            autocast: the mixed precision in which the teacher runs.
        """
        return cls(
            choice=args.teacher_cache,
            folder=Path(args.teacher_cache_dir or default_folder("teacher_cache")),
            dtype=args.teacher_cache_dtype,
            dataset=dataset,
            collator=collator,
            intermediate_passes=passes[0],
            prediction_passes=passes[1],
            joint=args.phases == "joint",
            batch_size=args.per_device_eval_batch_size,
            device=args.device,
            autocast=autocast,
            rank=args.process_index,
            processes=args.world_size,
            agree=lambda value: broadcast_object_list([value])[0],
        )


def open_source(live: OnlineTeacher, request: Request) -> TeacherSource:
    """The source of a run's teacher features; a feature cache is built first, if one is used.

    Raises:
        ValueError: the requested cache is not possible with these data.
        OSError: there is no room for it.
    """
    try:
        return _open_source(live, request)
    except BaseException:
        live.close()
        raise


def _open_source(live: OnlineTeacher, request: Request) -> TeacherSource:
    if request.choice == "none":
        return live
    why_not = rows.why_not(request.dataset)
    if why_not is None:
        try:
            opening = _Opening(live, request)
            why_not = opening.why_not()
        except rows.ChangedRows:
            why_not = "the data collator changes the token ids of the rows (masking, truncation, ...)"
    if why_not is None:
        return opening.source()
    if request.choice == "auto":
        _announce(request, f"teacher_cache='auto' takes 'none': {why_not}.")
        return live
    raise ValueError(f"teacher_cache={request.choice!r} cannot be: {why_not}. Use teacher_cache='none'.")


class _Opening:
    """The steps of opening a cache, which share a probe batch and the lengths of the rows."""

    def __init__(self, live: OnlineTeacher, request: Request) -> None:
        self.live = live
        self.request = request
        self.lengths = rows.real_lengths(request.dataset)
        size = min(request.batch_size, len(self.lengths))
        self.probe = np.linspace(0, len(self.lengths) - 1, size).astype(int).tolist()
        features, _ = self._features_of(self.probe)
        self.layout = Layout.from_features(features, request.dtype)
        self.biased = bool(features.bias) and not live.bias_is_of_positions
        self._contents: dict[Layout, dict[str, object]] = {}

    def why_not(self) -> str | None:
        """Why the teacher's output for a row would be another one in another batch, or None if it would not."""
        by_length = self.lengths.argsort()
        spread = np.unique(np.linspace(0, len(by_length) - 1, _PADDED + 1).astype(int))
        *shorter, longest = by_length[spread].tolist()
        if self._outputs([*shorter[:1], longest])[1][:, 0].all():  # padding on the right moves no position
            return None
        # The outputs of a single row can be equal by chance: random logits often are.
        if any(self._moves(row, longest) for row in shorter):
            return (
                "the teacher's output for a row changes with the padding of its batch (padding on the left moves "
                "the positions of most models); pad on the right"
            )
        return None

    def _moves(self, row: int, longest: int) -> bool:
        """Whether the teacher's outputs for a row differ in a batch with the longest row."""
        for together, alone in zip(self._outputs([row, longest])[0], self._outputs([row])[0], strict=True):
            difference = (together[: len(alone)] - alone).square().mean()
            if difference > _SAME**2 * alone.square().mean():
                return True
        return False

    def source(self) -> TeacherSource:
        request = self.request
        choice = request.choice
        if choice == "auto":
            choice, why = request.agree(self._choose())
            _announce(request, f"teacher_cache='auto' takes {choice!r}: {why}.")
        if choice == "features" and self.layout.columns:
            if self.biased:
                raise ValueError(
                    f"teacher_cache='features' cannot be: {_BIASED}. Use teacher_cache='logits', or "
                    "head_matching='relations', which compares queries, keys and values alone."
                )
            return self._features()
        if choice == "logits" and request.joint:
            _announce(
                request,
                "teacher_cache='logits' saves nothing where every step matches layers (phases='joint'): the teacher "
                "runs for them anyway. 'features' caches both; 'auto' measures whether that saves time.",
            )
            return self.live
        if choice != "none" and request.prediction_passes > 0:
            return self._logits()
        return self.live

    def _features(self) -> TeacherSource:
        store = self._store()
        missing = store.missing_bytes
        if missing:
            store.check_room()
            _announce(
                self.request,
                f"Teacher cache: {readable(missing)} of features ({len(self.lengths)} rows, {self.lengths.sum()} "
                f"tokens, {self.layout.width} numbers each, {self.layout.dtype}) will be written to {store.folder}, "
                f"where {readable(free_bytes(store.folder))} are free.",
            )
        self._describe(store.folder, self.layout)
        store.ensure(self._compute, self.request.batch_size)
        return CachedFeatures(self.live, store)

    def _logits(self) -> TeacherSource:
        kept = Layout((), "float32", self.layout.classes, self.layout.per_token)
        folder, key = self._folder_and_key(kept)
        sizes = self.lengths if kept.per_token else np.ones_like(self.lengths)
        total, free = int(sizes.sum()) * 4 * kept.classes, free_bytes(folder)
        name = f"{self.request.rank}-of-{self.request.processes}"
        table = LogitsTable(folder, key, sizes, kept.classes, self.request.device, name)
        if not table.complete:
            if total > free:
                raise OSError(
                    f"The teacher's logits take {readable(total)} in {folder}, where {readable(free)} are free: use "
                    "teacher_cache='none' or another teacher_cache_dir."
                )
            _announce(
                self.request,
                f"Teacher cache: {readable(total)} of logits will be written to {folder}, where {readable(free)} are "
                "free.",
            )
            self._describe(folder, kept)
        return CachedLogits(self.live, table, kept.per_token)

    def _store(self) -> FeatureStore:
        folder, key = self._folder_and_key(self.layout)
        return FeatureStore(folder, key, self.layout, self.lengths)

    def _folder_and_key(self, kept: Layout) -> tuple[Path, str]:
        """The key of a layout, and its folder; nothing is written yet."""
        live, request = self.live, self.request
        if kept not in self._contents:
            self._contents[kept] = keys.contents(live.sources, request.dataset, live.inputs, kept, request.autocast)
        key = keys.key_of(self._contents[kept])
        return request.folder / key[:32], key

    def _describe(self, folder: Path, kept: Layout) -> None:
        """Make the folder, with a file of the values from which its key is computed.

        Raises:
            OSError: the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"The teacher's cache cannot be kept in {self.request.folder}: {error}. Choose a folder that can be "
                "written to with teacher_cache_dir."
            ) from None
        description = folder / "contents.json"
        if not description.is_file():
            with file_beside(description) as file:
                file.write_text(json.dumps(self._contents[kept], indent=2, default=str) + "\n", encoding="utf-8")

    def _features_of(self, numbers: Sequence[int]) -> tuple[Features, Tensor]:
        """The teacher's features of some rows, and their mask."""
        request = self.request
        examples = _examples(request.dataset, numbers)
        batch = request.collator(examples)
        rows.check_unchanged(examples, batch["input_ids"], rows.mask_of(batch))
        inputs = {k: v.to(request.device) for k, v in batch.items() if isinstance(v, Tensor)}
        prediction = request.prediction_passes > 0
        intermediate = request.intermediate_passes > 0
        return self.live.features(inputs, intermediate, prediction), rows.mask_of(inputs)

    def _compute(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        features, mask = self._features_of(numbers)
        tokens, logits = self.layout.pack(features, mask).cpu(), features.logits
        if logits is not None and self.layout.per_token:
            logits = layout.real_tokens(logits, layout.real_positions(mask))
        return tokens, None if logits is None else logits.float().cpu()

    def _outputs(self, numbers: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """In float32: the features of some rows' tokens and the logits, where there are any; and the mask."""
        features, mask = self._features_of(numbers)
        outputs = [replace(self.layout, dtype="float32").pack(features, mask)] if self.layout.columns else []
        if features.logits is not None:
            logits = features.logits.float()
            if self.layout.per_token:
                logits = layout.real_tokens(logits, layout.real_positions(mask))
            outputs.append(logits)
        return outputs, mask

    def _choose(self) -> tuple[str, str]:
        """The cache that is fastest over the passes of the run, and the reason."""
        layer_passes, logit_passes = self.request.intermediate_passes, self.request.prediction_passes
        reuse = not self.request.joint and logit_passes > 0 and layer_passes + logit_passes > 1
        otherwise = "logits" if reuse else "none"
        if layer_passes <= 1:
            return otherwise, "no layer is needed twice"
        if self.biased:
            return otherwise, _BIASED
        store = self._store()
        missing, free = store.missing_bytes, free_bytes(store.folder)
        if not missing:
            return "features", f"they are stored in {store.folder}"
        if missing > free * (1 - _LEAVE_FREE):
            return otherwise, f"features take {readable(missing)}, and {readable(free)} are free in {store.folder}"
        teacher = _median_seconds(lambda: self._features_of(self.probe), self.request.device)
        tokens = int(self.lengths[self.probe].sum())
        write, read = _disk_seconds(self.request.folder, tokens * self.layout.token_bytes)
        live, cached = layer_passes * teacher, teacher + write + layer_passes * read
        size = readable(store.total_bytes)
        numbers = (
            f"{len(self.probe)} rows take the teacher {1000 * teacher:.0f} ms, writing their features "
            f"{1000 * write:.0f} ms and reading them {1000 * read:.0f} ms; over {layer_passes:.3g} passes for "
            f"layers that is {1000 * live:.0f} ms without and {1000 * cached:.0f} ms with a cache of {size}"
        )
        return ("features" if cached < 0.9 * live else otherwise), numbers


def _examples(dataset: Dataset, numbers: Sequence[int]) -> list[Example]:
    columns = dataset[list(numbers)]
    return [{name: values[i] for name, values in columns.items()} for i in range(len(numbers))]


def _median_seconds(function: Callable[[], object], device: torch.device, times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _disk_seconds(folder: Path, size: int) -> tuple[float, float]:
    """Seconds to write and to read some bytes, without the operating system's cache where that is possible."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"probe.partial-{os.getpid()}"
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    try:
        start = time.perf_counter()
        with path.open("wb") as file:
            noise.tofile(file)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        write = time.perf_counter() - start
        start = time.perf_counter()
        np.fromfile(path, dtype=np.uint8)
        return write, time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)


def _announce(request: Request, text: str) -> None:
    """Log a warning in the first process, which users see: a cache takes room on their disk."""
    if request.rank == 0:
        logger.warning(text)
