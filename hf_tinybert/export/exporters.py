"""From a model to an ONNX file: by Optimum's exporter, or, where this transformers has none, by PyTorch's."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tinybert.export.model_inputs import ModelInputs
from hf_tinybert.models.loading import pipeline_tag
from hf_tinybert.utils.extras import required

#: Outputs of each task, in Optimum's order.
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


def write(model: PreTrainedModel, file: Path) -> str:
    """Write a model's ONNX file, with Optimum's names and dynamic axes.

    Args:
        model: in eval mode, on the CPU.
        file: to write.

    Returns:
        `"optimum"` or `"torch"`.
    """
    required("onnxruntime", "Export")
    if has_optimum():
        _by_optimum(model, file)
        return "optimum"
    by_torch(model, file)
    return "torch"


def _by_optimum(model: PreTrainedModel, file: Path) -> None:
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory(dir=file.parent) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the tracer
        source, target = Path(scratch) / "source", Path(scratch) / "target"
        model.save_pretrained(source)
        main_export(
            str(source),
            str(target),
            task=pipeline_tag(model),
            library_name="transformers",
            do_validation=False,
            device="cpu",
        )
        shutil.move(target / "model.onnx", file)


def by_torch(model: PreTrainedModel, file: Path, mask_axes: int = 2) -> None:
    """Write a model's ONNX file with `torch.onnx`.

    Args:
        model: in eval mode, on the CPU.
        file: to write.
        mask_axes: 4 hands the model an attention mask of `[B, 1, 1, S]`, which transformers 5 passes on to the layers
            as it is; 2 the usual `[B, S]`.
    """
    required("onnx", "Export")
    required("onnxscript", "Export")
    example = torch.arange(16).reshape(2, 8) % model.config.vocab_size
    inputs = ModelInputs.from_model(model).complete({"input_ids": example})
    outputs = _OUTPUTS[pipeline_tag(model)]
    batch, length = torch.export.Dim(_BATCH), torch.export.Dim(_LENGTH)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of the tracer
            torch.onnx.export(
                _Positional(model, list(inputs), outputs, mask_axes),
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes={"arguments": tuple({0: batch, 1: length} for _ in inputs)},
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    finally:
        log.setLevel(level)


class _Positional(nn.Module):
    """A model that takes tensors in a fixed order and returns tensors."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str], outputs: Sequence[str], mask_axes: int) -> None:
        super().__init__()
        self.model, self.names, self.outputs, self.mask_axes = model, names, outputs, mask_axes

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.names, arguments, strict=True))
        if self.mask_axes == 4:
            inputs["attention_mask"] = inputs["attention_mask"][:, None, None, :]
        output = self.model(**inputs, return_dict=True)
        return tuple(output[name] for name in self.outputs)
