"""SHA-256 digests, in hexadecimal, of weights, files, arrays and anything that JSON can hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # files are hashed without it
    from torch import Tensor, nn


def weights_digest(model: nn.Module) -> str:
    """The digest of the names, types, shapes and values of a model's weights."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The digest of the names, types, shapes and values of tensors, whatever their order."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw: Tensor = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """The digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: object) -> str:
    """The digest of a value as JSON with sorted keys; what JSON does not know enters as its text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def stream_digest(parts: Iterable[str | bytes]) -> str:
    """The digest of texts and bytes, one after another, without holding them all."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
