"""Which of several ONNX files is the fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from transformers import PretrainedConfig

from hf_tinybert.export.session import OnnxModel
from hf_tinybert.timing import medians, random_inputs

_ROUNDS, _WARM_UP = 30, 5
_Key = TypeVar("_Key")


def milliseconds(files: Mapping[_Key, Path], config: PretrainedConfig, length: int, threads: int) -> dict[_Key, float]:
    """Median milliseconds of one sequence, batch 1, the files taking turns.

    Args:
        files: key -> ONNX file.
        config: of the model.
        length: tokens of the sequence.
        threads: CPU threads.
    """
    opened = {key: OnnxModel(file, config, threads) for key, file in files.items()}
    return median_milliseconds(opened, config, length)


def median_milliseconds(
    models: Mapping[_Key, Callable[..., object]], config: PretrainedConfig, length: int
) -> dict[_Key, float]:
    """The same of models that are open."""
    inputs = random_inputs(config, 1, length)
    calls = {key: partial(model, **inputs) for key, model in models.items()}
    return medians(calls, _ROUNDS, _WARM_UP)
