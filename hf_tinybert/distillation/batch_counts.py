"""Counts of a global batch: the denominators of the losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hf_tinybert import losses
from hf_tinybert.utils.types import Batch


class Reduce(Protocol):
    """`accelerator.reduce`."""

    def __call__(self, tensor: Tensor, /, reduction: str = "sum") -> Tensor:
        """The tensor, summed over all processes."""


@dataclass(frozen=True)
class BatchCounts:
    """Counts of a global batch, over all its micro-batches and processes.

    Means are taken over these counts, so that accumulating micro-batches, or splitting them over processes,
    gives the gradient of the whole batch whatever their lengths.

    Attributes:
        sequences: rows.
        tokens: real positions.
        pairs: real (query, key) pairs, the sum of squared lengths.
        labels: labelled rows, or labelled positions in token-level tasks.
        shares: micro-batches times processes; the Trainer and DDP average over them, so each share's sum is
            multiplied by it first.
        windowed: window -> real pairs at most so many positions apart, for models with local attention.
    """

    sequences: Tensor
    tokens: Tensor
    pairs: Tensor
    labels: Tensor
    shares: int
    windowed: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def from_batches(
        cls,
        batches: Sequence[Batch],
        device: torch.device,
        longest: int | None = None,
        reduce: Reduce | None = None,
        processes: int = 1,
        count_rows: bool = False,
        windows: Iterable[int] = (),
    ) -> BatchCounts:
        """Count a step's micro-batches, over all processes, without synchronising with the device.

        Args:
            batches: this process's micro-batches, with `input_ids` `[B, S]` and, where they have them,
                `attention_mask` and `labels`.
            device: of the counts.
            longest: the longest input that the models take.
            reduce: `accelerator.reduce`, if there are several processes.
            processes: number of processes.
            count_rows: every row counts as one label, as in multi-label tasks, whose labels are `[B, C]`.
            windows: maximum distances for which pairs are also counted.

        Raises:
            ValueError: an input is longer than `longest`.
        """
        micro_batches: list[Tensor] = []
        windows = sorted(windows)
        for batch in batches:
            ids, mask, labels = batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
            rows, positions = ids.shape
            if longest is not None and positions > longest:
                raise ValueError(
                    f"An input of {positions} tokens is longer than the {longest} positions of the student or the "
                    "teacher: truncate when tokenising (`truncation=True, max_length=...`)."
                )
            full = torch.full((rows,), positions, device=device)
            lengths = full if mask is None else mask.to(device).sum(-1)
            labelled = torch.full((), rows, device=device)
            if labels is not None and not labels.is_floating_point() and not count_rows:
                labelled = (labels.to(device) != -100).sum()
            count = torch.full((), rows, device=device)
            counted = [count, lengths.sum(), lengths.square().sum(), labelled]
            if windows:
                real = torch.ones_like(ids, device=device) if mask is None else mask.to(device)
                counted += [losses.real_pairs(real, window) for window in windows]
            micro_batches.append(torch.stack([value.float() for value in counted]))
        total = torch.stack(micro_batches).sum(dim=0)
        if reduce is not None:
            total = reduce(total, reduction="sum")
        sequences, tokens, pairs, labels_total, *within = total.unbind()
        windowed = dict(zip(windows, within, strict=True))
        return cls(sequences, tokens, pairs, labels_total, len(batches) * processes, windowed)
