"""The loss of every level, summed between two logs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.phases import Phase


def check_finite(loss: float, step: int, logs: Mapping[str, float]) -> None:
    """Stop the run if the loss is NaN or infinite.

    Raises:
        FloatingPointError: the loss is not finite; the message lists the last loss of every level.
    """
    if not math.isfinite(loss):
        last = {name: value for name, value in logs.items() if name.startswith("loss_")}
        raise FloatingPointError(
            f"The loss is {loss} at step {step}: lower the learning rate, clip the gradient (max_grad_norm), or use "
            f"bf16 or float32 instead of fp16. Last values: {last}"
        )


class LossSeries:
    """Sums the loss of every level on its device; the sums are copied from it only for a log."""

    def __init__(self) -> None:
        """Start empty."""
        self._sums: dict[str, Tensor] = {}
        self._phase_of: dict[str, Phase] = {}
        self._steps: Counter[Phase] = Counter()

    def begin_step(self, phase: Phase) -> None:
        """Count an optimiser step."""
        self._steps[phase] += 1

    def add(self, parts: Mapping[str, Tensor], phase: Phase) -> None:
        """Add the parts of a micro-batch, scalars by level name."""
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._phase_of[name] = phase

    def drain(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Means over the steps since the last call in which a level was matched, by `Level.loss_name`.

        Only this method synchronises with the device.

        Args:
            reduce: sums a tensor over all processes, if there are several.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        values = (sums if reduce is None else reduce(sums)).tolist()
        means = {
            Level.parse(name).loss_name: value / self._steps[self._phase_of[name]]
            for name, value in zip(names, values, strict=True)
        }
        self._sums = {}
        self._steps = Counter()
        return means
