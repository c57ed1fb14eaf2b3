"""How the features of tokens are stored: side by side, without padding."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hf_tinybert.models.features import Features

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Layout:
    """The numbers that are stored of a token, and of a row.

    Attributes:
        columns: (kind, layer, width) of each matched tensor, in the order of storage; kind is `hidden`, `queries`,
            `keys` or `values`.
        dtype: of these numbers: `float16`, `bfloat16` or `float32`. Logits are float32.
        classes: logits of a row (or token), 0 where none are stored.
        per_token: logits are of tokens, not of rows.
    """

    columns: tuple[tuple[str, int, int], ...]
    dtype: str
    classes: int = 0
    per_token: bool = False

    @classmethod
    def from_features(cls, features: Features, dtype: str) -> Layout:
        """The layout of the features of a batch."""
        columns = tuple(
            (kind, layer, tensor.shape[-1])
            for kind in ("hidden", "queries", "keys", "values")
            for layer, tensor in sorted(getattr(features, kind).items())
        )
        logits = features.logits
        if logits is None:
            return cls(columns, dtype)
        return cls(columns, dtype, logits.shape[-1], logits.dim() == 3)

    @property
    def width(self) -> int:
        """Numbers stored of a token, without logits."""
        return sum(width for _, _, width in self.columns)

    @property
    def token_bytes(self) -> int:
        """Bytes of a token on disk."""
        logits = 4 * self.classes if self.per_token else 0
        return self.width * DTYPES[self.dtype].itemsize + logits

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on disk, without its tokens."""
        return 0 if self.per_token else 4 * self.classes

    def as_dict(self) -> dict[str, object]:
        """The layout as JSON can hold it, for a key."""
        return asdict(self)

    def pack(self, features: Features, mask: Tensor) -> Tensor:
        """The real tokens of a batch, `[T, width]` in row order."""
        positions = real_positions(mask)
        tensors = (getattr(features, kind)[layer] for kind, layer, _ in self.columns)
        return torch.cat([real_tokens(x, positions).to(DTYPES[self.dtype]) for x in tensors], dim=-1)

    def unpack(self, tokens: Tensor, positions: Tensor, shape: tuple[int, int]) -> Features:
        """The features of a padded batch; padding is 0.

        Args:
            tokens: `[T, width]`.
            positions: `[T]`, the position of each in the flattened batch.
            shape: (B, S).
        """
        padded = spread(tokens, positions, shape)
        features, start = Features(), 0
        for kind, layer, width in self.columns:
            getattr(features, kind)[layer] = padded[..., start : start + width]
            start += width
        return features


def real_positions(mask: Tensor) -> Tensor:
    """Indices of the real positions of a mask `[B, S]` in the flattened batch, `[T]`."""
    return mask.flatten().nonzero().squeeze(-1)


def real_tokens(tensor: Tensor, positions: Tensor) -> Tensor:
    """`[B, S, d]` to `[T, d]`, without padding."""
    flat = tensor.flatten(0, 1)
    return flat if len(positions) == len(flat) else flat[positions]


def spread(tokens: Tensor, positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """`[T, d]` to `[B, S, d]`, padding 0, without a device synchronisation."""
    if len(tokens) != shape[0] * shape[1]:
        padded = tokens.new_zeros(shape[0] * shape[1], tokens.shape[-1])
        tokens = padded.index_copy_(0, positions, tokens)
    return tokens.unflatten(0, shape)
