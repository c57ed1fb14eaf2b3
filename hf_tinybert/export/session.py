"""An ONNX file as a model: ONNX Runtime behind the interface of a PyTorch model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from hf_tinybert.export.model_inputs import ModelInputs
from hf_tinybert.utils import extras
from hf_tinybert.utils.latency import medians, random_inputs
from hf_tinybert.utils.types import Forward

_ROUNDS, _WARM_UP = 30, 5
_Key = TypeVar("_Key")


class ExportedModel(Protocol):
    """An exported file that is open, which a `Trainer` can evaluate."""

    path: Path
    inputs: ModelInputs
    outputs: list[str]

    def __call__(self, **inputs: Tensor) -> ModelOutput:
        """The outputs of a batch."""


class OnnxModel(nn.Module):
    """A session that answers `forward(**inputs)`, so that a `Trainer` can evaluate it.

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
        onnxruntime = extras.required("onnxruntime", "ONNX Runtime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        self.config, self.path = config, Path(path)
        self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        self.inputs = ModelInputs([value.name for value in self.session.get_inputs()])
        self.outputs = [value.name for value in self.session.get_outputs()]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **labels: Tensor,
    ) -> ModelOutput:
        """The outputs of a batch. Labels are ignored; beside them the loss is zero."""
        optional = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        batch = {"input_ids": input_ids} | {name: value for name, value in optional.items() if value is not None}
        inputs = self.inputs.complete(batch)
        arrays = self.session.run(self.outputs, {k: np.asarray(v.cpu(), dtype=np.int64) for k, v in inputs.items()})
        outputs = {name: torch.from_numpy(array) for name, array in zip(self.outputs, arrays, strict=True)}
        return ModelOutput(loss=torch.zeros(()), **outputs) if labels else ModelOutput(outputs)


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


def median_milliseconds(models: Mapping[_Key, Forward], config: PretrainedConfig, length: int) -> dict[_Key, float]:
    """The same of open models."""
    inputs = random_inputs(config, 1, length)
    calls = {key: partial(model, **inputs) for key, model in models.items()}
    return medians(calls, _ROUNDS, _WARM_UP)
