"""What a global batch holds: the numbers that losses are means over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_tinybert import losses


@dataclass(frozen=True)
class BatchCounts:
    """How many things a global batch holds, over all its micro-batches and processes.

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
        batches: Sequence[Mapping[str, Any]],
        device: torch.device,
        longest: int | None = None,
        reduce: Callable[..., Tensor] | None = None,
        processes: int = 1,
        count_rows: bool = False,
        windows: Iterable[int] = (),
    ) -> BatchCounts:
        """Count a step's micro-batches, over all processes, without waiting for the device.

        Args:
            batches: this process's micro-batches, with `input_ids` `[B, S]` and, where they have them,
                `attention_mask` and `labels`.
            device: where the counts live.
            longest: the longest input that the models take.
            reduce: `accelerator.reduce`, where there are several processes.
            processes: how many there are.
            count_rows: every row counts as one label, as in multi-label tasks, whose labels are `[B, C]`.
            windows: for which pairs are counted by their distance, too.

        Raises:
            ValueError: an input is longer than `longest`.
        """
        rows: list[Tensor] = []
        windows = sorted(windows)
        for batch in batches:
            ids, mask, labels = batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
            sequences, positions = ids.shape
            if longest is not None and positions > longest:
                raise ValueError(
                    f"An input of {positions} tokens is longer than the {longest} positions of the student or the "
                    "teacher: truncate when tokenising (`truncation=True, max_length=...`)."
                )
            full = torch.full((sequences,), positions, device=device)
            lengths = full if mask is None else mask.to(device).sum(-1)
            labelled = torch.full((), sequences, device=device)
            if labels is not None and not labels.is_floating_point() and not count_rows:
                labelled = (labels.to(device) != -100).sum()
            count = torch.full((), sequences, device=device)
            counted = [count, lengths.sum(), lengths.square().sum(), labelled]
            if windows:
                real = torch.ones_like(ids, device=device) if mask is None else mask.to(device)
                counted += [losses.real_pairs(real, window) for window in windows]
            rows.append(torch.stack([value.float() for value in counted]))
        total = torch.stack(rows).sum(dim=0)
        if reduce is not None:
            total = reduce(total, reduction="sum")
        sequences, tokens, pairs, labelled, *near = total.unbind()
        windowed = dict(zip(windows, near, strict=True))
        return cls(sequences, tokens, pairs, labelled, len(batches) * processes, windowed)
