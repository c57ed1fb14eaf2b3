"""The parts of a model that the losses look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

#: From what the projections of an attention module gave, by name, and what its forward pass was called with, to
#: `queries`, `keys`, `values` and, where the scores have a term of their own, `bias` (see `Attention`).
Read = Callable[[nn.Module, Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Attention:
    """Where the attention scores of one layer come from: Q K^T / sqrt(head_size), plus a bias in some families.

    Attributes:
        module: computes the scores.
        queries: the query projection, `[B, S, d]` to `[B, S, heads * head_size]`.
        keys: the key projection.
        values: the value projection; in some families one module is all three.
        read: makes queries, keys, values and bias of what the projections gave; None where they are just that.
        biased: `read` also gives a `bias` `[B, heads, S, S]`, which is added to the scores.
        window: a position attends to those at most so many positions away; None: to all.
    """

    module: nn.Module
    queries: nn.Module
    keys: nn.Module
    values: nn.Module
    read: Read | None = None
    biased: bool = False
    window: int | None = None


@dataclass(frozen=True)
class Encoder:
    """The parts of a model that the losses look at.

    Attributes:
        layers: the transformer layers in the order in which they are called, a shared one several times; each takes
            hidden states `[B, S, d]` first and returns them first.
        outputs: the module whose output is the hidden state after each layer: the layer itself, or a convolution or
            final LayerNorm behind it.
        attention: of each layer.
        num_heads: attention heads of a layer.
        hidden_size: d.
        max_length: the longest input in tokens, or None if it is not limited.
        known_scores: whether the scores are what `Attention` says; False where the model adds something unknown.
    """

    layers: tuple[nn.Module, ...]
    outputs: tuple[nn.Module, ...]
    attention: tuple[Attention, ...]
    num_heads: int
    hidden_size: int
    max_length: int | None
    known_scores: bool

    @property
    def num_layers(self) -> int:
        """The number of transformer layers."""
        return len(self.layers)

    @property
    def biased(self) -> bool:
        """Whether the scores have a term beside Q K^T."""
        return any(attention.biased for attention in self.attention)
