"""Fidelity of the student's predictions to the teacher's on evaluation data."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_tinybert.losses import agreement_and_kl
from hf_tinybert.models.decisions import decisions
from hf_tinybert.models.output_types import REGRESSION
from hf_tinybert.utils.types import Batch, Reduces


class PredictionFidelity:
    """Sums agreement over the batches of an evaluation, on the device and without synchronising with it.

    `agreement` is the share of equal predictions, and `kl` the mean Kullback-Leibler divergence of the teacher's
    distribution from the student's in nats: over rows for single-label classification, over (row, class) pairs with a
    threshold of one half for multi-label classification, over labelled positions for tokens, over starts and ends for
    spans. Regression gives `teacher_mse`.

    Args:
        kind: the output type (see `hf_tinybert.distillation.output_matching`).
    """

    def __init__(self, kind: str) -> None:
        """Start empty."""
        self._kind = kind
        self._sums: Tensor | None = None

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, inputs: Batch) -> None:
        """Add a batch.

        Args:
            student: logits `[B, C]` or `[B, S, C]`.
            teacher: the same shape.
            inputs: `attention_mask` and `labels` of the batch, if it has any.
        """
        kept: Tensor | None = None
        if self._kind == REGRESSION:
            first = second = (student.float() - teacher.float()).square().mean(dim=-1)
        else:
            student, kept = decisions(self._kind, student, inputs)
            first, second = agreement_and_kl(student, decisions(self._kind, teacher, inputs)[0])
        counted = torch.ones_like(first) if kept is None else kept.to(first.dtype)
        batch = torch.stack([(first * counted).sum(), (second * counted).sum(), counted.sum()])
        self._sums = batch if self._sums is None else self._sums + batch

    def close(self) -> None:
        """Nothing is held."""

    def compute(self, prefix: str, accelerator: Reduces) -> dict[str, float]:
        """The metrics over all processes, named with a prefix; empty if nothing was added."""
        if self._sums is None:
            return {}
        first, second, count = accelerator.reduce(self._sums, reduction="sum").tolist()
        count = max(count, 1.0)
        if self._kind == REGRESSION:
            return {f"{prefix}_teacher_mse": first / count}
        return {f"{prefix}_agreement": first / count, f"{prefix}_kl": second / count}
