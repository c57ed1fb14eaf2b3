"""Fused attention in float32 under mixed precision on a CPU, where its backward pass is slow in half precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_tinybert.utils import compat


class Float32Attention(TorchFunctionMode):
    """A context in which `scaled_dot_product_attention` works in float32, whatever autocast says.

    Everything around it stays as it is: its result goes on in the type that autocast gives what follows.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, attention in float32."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})


def fast_attention(model: nn.Module, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a model's forward pass makes the backward pass of its fused attention fast.

    That backward pass takes several times as long in bfloat16 as in float32 (see docs/performance.md). Compiled models
    are left alone, and so are those with gradient checkpointing, which run their layers again outside of the context.
    """
    slow = device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not slow or torch.compiler.is_compiling() or compat.checkpoints_layers(model):
        return nullcontext()
    return Float32Attention()


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
