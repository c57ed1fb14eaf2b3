"""PyTorch's exporter takes seconds for each graph: of a model that it has traced in this session, the file is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hf_tinybert.export import exporters

KEPT: dict[str, bytes] = {}


def key(model, mask_axes: int) -> str:
    """Changes with the modules, the weights and the mask's form."""
    found = hashlib.sha256(f"{type(model)} {model} {mask_axes} {model.config.model_type}".encode())
    for name, value in model.state_dict().items():
        found.update(f"{name} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return found.hexdigest()


@contextmanager
def traced_once() -> Iterator[None]:
    """Meanwhile `tracing.by_torch` traces each model once."""
    trace = exporters.by_torch

    def by_torch(model, file, mask_axes=2):
        name = key(model, mask_axes)
        if name not in KEPT:
            trace(model, file, mask_axes)
            KEPT[name] = Path(file).read_bytes()
        Path(file).write_bytes(KEPT[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporters, "by_torch", by_torch)
        yield
