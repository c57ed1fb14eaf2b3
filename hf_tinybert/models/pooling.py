"""Pooling: the output of a sentence encoder (a model without a head) is one vector for each text."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "cls")


def pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """The pooled vector of each text, `[B, d]`, in float32.

    Args:
        hidden: `[B, S, d]`, of the last layer.
        mask: `[B, S]`, 1 for real positions, or None.
        pooling: `"mean"` over real positions, or `"cls"`, the first position.
    """
    if pooling == "cls":
        return hidden[:, 0].float()
    if mask is None:
        return hidden.float().mean(dim=1)
    real = mask.to(hidden.device, torch.float32).unsqueeze(-1)
    return (hidden.float() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)
