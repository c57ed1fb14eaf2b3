"""Fused attention in float32 under mixed precision on a CPU, where its backward pass is slow in half precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_tinybert.utils import compat


class _Function(Protocol):
    """A function of torch."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it."""


class Float32Attention(TorchFunctionMode):
    """A context in which `scaled_dot_product_attention` runs in float32, also under autocast.

    All other operations are unaffected: autocast casts the result again where the next operation needs it.
    """

    def __torch_function__(
        self,
        func: _Function,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run `func`, attention in float32."""
        kwargs = kwargs or {}
        is_attention = func is F.scaled_dot_product_attention
        if not is_attention:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})


def fast_attention(model: nn.Module, device: torch.device) -> AbstractContextManager[object]:
    """The context of a model's forward pass in which the backward pass of its fused attention is fast.

    That backward pass takes several times as long in bfloat16 as in float32 (see docs/performance.md). Nothing changes
    for compiled models, and for gradient checkpointing, which recomputes the layers outside this context.
    """
    slow = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not slow or torch.compiler.is_compiling() or compat.checkpoints_layers(model):
        return nullcontext()
    return Float32Attention()


def _widened(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
