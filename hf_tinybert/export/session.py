"""An ONNX file as a model: in ONNX Runtime, called as a PyTorch model is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from hf_tinybert.utils.latency import medians, random_inputs

_ROUNDS, _WARM_UP = 30, 5
_Key = TypeVar("_Key")


class OnnxModel(nn.Module):
    """A session that answers `forward(**inputs)`, so that a Trainer can evaluate it.

    Args:
        path: of the ONNX file.
        config: of the model that it was made of.
        threads: CPU threads; ONNX Runtime's own number by default.

    Raises:
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], config: PretrainedConfig, threads: int | None = None) -> None:
        """Load the file."""
        super().__init__()
        onnxruntime = required("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self.config, self.path = config, Path(path)
        self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **labels: Any,
    ) -> ModelOutput:
        """What the file says of a batch; labels are not looked at, and the loss is zero."""
        given = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "token_type_ids": torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        }
        fed = {name: np.asarray(given[name].cpu(), dtype=np.int64) for name in self.inputs}
        answers = self.session.run(self.outputs, fed)
        said = {name: torch.from_numpy(value) for name, value in zip(self.outputs, answers, strict=True)}
        return ModelOutput(loss=torch.zeros(()), **said) if labels else ModelOutput(said)


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


def required(name: str) -> Any:
    """A module of the `onnx` extra.

    Raises:
        ImportError: says what to install.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f"Exporting needs {name}: pip install 'hf-tinybert[onnx]' (with transformers 4), or "
            "'hf-tinybert[onnx-torch]' (with transformers 5, for which there is no Optimum exporter)."
        ) from None
