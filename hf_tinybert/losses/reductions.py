"""Helpers of all losses: float32, masks, and sums or means over real positions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "paper"]


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast, on a tensor's device."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def padding_of(mask: Tensor | None, shape: tuple[int, ...] | torch.Size) -> Tensor | None:
    """True where a position is padding; None if there is none, as far as that is known without synchronising."""
    if mask is None:
        return None
    if mask.shape != torch.Size(shape):
        raise ValueError(f"The mask's shape {tuple(mask.shape)} does not fit the positions {tuple(shape)}.")
    real = mask.bool()
    return None if real.device.type == "cpu" and not torch.compiler.is_compiling() and real.all() else ~real


def count_of(mask: Tensor | None, per_position: Tensor) -> Tensor:
    """Number of real positions."""
    if mask is None:
        return torch.full((), float(per_position.numel()), device=per_position.device)
    return mask.bool().sum().float()


def reduced_rows(per_row: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Losses by position, reduced over the real ones."""
    padding = padding_of(mask, per_row.shape)
    if padding is not None:
        per_row = per_row.masked_fill(padding, 0.0)
    return reduced(per_row.sum(), count_of(mask, per_row), reduction)


def reduced(total: Tensor, count: Tensor, reduction: str) -> Tensor:
    """A sum, or its mean over `count`.

    Raises:
        ValueError: the reduction is unknown.
    """
    if reduction == "sum":
        return total
    if reduction in ("mean", "paper"):
        return total / count.clamp(min=1.0)
    raise ValueError(f"reduction is 'mean', 'sum' or 'paper', got {reduction!r}.")


def check_temperature(name: str, temperature: float) -> None:
    """Refuse a temperature that is not positive."""
    if not temperature > 0:
        raise ValueError(f"{name}: the temperature must be positive, got {temperature}.")


def check_same_shape(name: str, a: Tensor, b: Tensor) -> None:
    """Refuse two tensors of different shapes."""
    if a.shape != b.shape:
        raise ValueError(f"{name}: the shapes must be the same, got {tuple(a.shape)} and {tuple(b.shape)}.")
