"""How closely a student follows its teacher on evaluation data."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Agreement:
    """Adds up agreement over the batches of an evaluation, on the device, without waiting for it.

    Classification gives `agreement`, the share of equal predictions, and `kl`, the mean Kullback-Leibler
    divergence of the teacher's distribution from the student's in nats; regression gives `teacher_mse`.

    Args:
        regression: whether the logits are predicted values.
    """

    def __init__(self, regression: bool) -> None:
        """Start empty."""
        self._regression = regression
        self._sums: Tensor | None = None

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            student: logits `[B, C]` or `[B, S, C]`.
            teacher: the same shape.
            mask: for `[B, S, C]`, `[B, S]` with the positions that count.
        """
        student, teacher = student.float(), teacher.float()
        if self._regression:
            first = second = (student - teacher).square().mean(dim=-1)
        else:
            log_s, log_t = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
            first = (student.argmax(dim=-1) == teacher.argmax(dim=-1)).float()
            second = (log_t.exp() * (log_t - log_s)).sum(dim=-1)
        kept = torch.ones_like(first) if mask is None else mask.to(first.dtype)
        batch = torch.stack([(first * kept).sum(), (second * kept).sum(), kept.sum()])
        self._sums = batch if self._sums is None else self._sums + batch

    def compute(self, prefix: str, accelerator: Any) -> dict[str, float]:
        """The metrics over all processes, named with a prefix; empty if nothing was added."""
        if self._sums is None:
            return {}
        first, second, count = accelerator.reduce(self._sums, reduction="sum").tolist()
        count = max(count, 1.0)
        if self._regression:
            return {f"{prefix}_teacher_mse": first / count}
        return {f"{prefix}_agreement": first / count, f"{prefix}_kl": second / count}
