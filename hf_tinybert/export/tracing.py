"""From a model to an ONNX file: by Optimum's exporter, or, where this transformers has none, by PyTorch's."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tinybert.export.session import required

#: What a head says, in the order of Optimum's outputs.
_OUTPUTS = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "fill-mask": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "feature-extraction": ("last_hidden_state",),
}
_BATCH, _LENGTH = "batch_size", "sequence_length"


def has_optimum() -> bool:
    """Whether Optimum's exporter is there and works with this transformers."""
    if importlib.util.find_spec("optimum") is None:
        return False
    try:
        from optimum.exporters.onnx import main_export  # noqa: F401
    except ImportError:
        return False
    return True


def by_optimum(folder: str, task: str, file: Path) -> None:
    """Write the ONNX file of the model in a folder."""
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing has to say
        main_export(folder, scratch, task=task, library_name="transformers", do_validation=False, device="cpu")
        shutil.copyfile(Path(scratch) / "model.onnx", file)


def by_torch(model: PreTrainedModel, inputs: dict[str, Tensor], task: str, file: Path) -> None:
    """Write a model's ONNX file with the names and dynamic axes of Optimum's.

    Args:
        model: in eval mode, on the CPU.
        inputs: a batch of two or more texts.
        task: as `pipeline()` names it.
        file: to write.
    """
    required("onnx")
    required("onnxscript")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs]
    batch, length = torch.export.Dim(_BATCH), torch.export.Dim(_LENGTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Positional(model, names, _OUTPUTS[task]),
            tuple(inputs[name] for name in names),
            str(file),
            input_names=names,
            output_names=list(_OUTPUTS[task]),
            dynamic_shapes={"arguments": tuple({0: batch, 1: length} for _ in names)},
            external_data=False,
            dynamo=True,
            verbose=False,
        )


class _Positional(nn.Module):
    """A model that takes tensors in a fixed order and returns tensors."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *arguments: Tensor) -> Any:
        output = self.model(**dict(zip(self.names, arguments, strict=True)), return_dict=True)
        return tuple(output[name] for name in self.outputs)
