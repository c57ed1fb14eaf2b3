"""Students for OpenVINO, Intel's runtime, where optimum-intel is installed."""

from __future__ import annotations

import importlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_tinybert.export.model_inputs import ModelInputs
from hf_tinybert.export.onnx import (
    LENGTH,
    Check,
    Export,
    ExportedFile,
    copy_beside,
    difference,
    opened,
    refuse_difference,
    refuse_place,
    write_facts,
)
from hf_tinybert.export.session import median_milliseconds
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import pipeline_tag
from hf_tinybert.utils.files import written_beside
from hf_tinybert.utils.latency import machine_name

FOLDER = "openvino"
FILE = "openvino_model.xml"
_CLASSES = {
    "text-classification": "OVModelForSequenceClassification",
    "token-classification": "OVModelForTokenClassification",
    "question-answering": "OVModelForQuestionAnswering",
    "fill-mask": "OVModelForMaskedLM",
    "feature-extraction": "OVModelForFeatureExtraction",
}


class _OpenvinoClass(Protocol):
    """A class of optimum-intel."""

    def __call__(self, **kwargs: object) -> object:
        """Make one."""

    def from_pretrained(self, folder: str | Path, **kwargs: object) -> PreTrainedModel:
        """Load or export a model."""


class OpenvinoModel(nn.Module):
    """A student in OpenVINO that answers `forward(**inputs)`, so that a `Trainer` can evaluate it.

    Args:
        folder: where `openvino_model.xml` lies.
        config: of the exported model.
        tag: its task as `pipeline()` names it.
        exact: compute in float32, where OpenVINO would take bfloat16 on processors that have it.
    """

    def __init__(self, folder: Path, config: PretrainedConfig, tag: str, exact: bool = False) -> None:
        """Load and compile it."""
        super().__init__()
        settings = {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
        self.config, self.path = config, folder / FILE
        self.model = _class(tag).from_pretrained(folder, config=config, ov_config=settings)
        self.inputs = ModelInputs(list(self.model.input_names))
        self.outputs = list(self.model.output_names)

    def forward(self, input_ids: Tensor, **given: Tensor) -> ModelOutput:
        """The outputs of a batch. Labels are ignored; beside them the loss is zero."""
        inputs = self.inputs.complete({"input_ids": input_ids} | given)
        outputs = self.model(**inputs)
        return ModelOutput(loss=torch.zeros(()), **outputs) if given.keys() - inputs.keys() else ModelOutput(outputs)


def export_openvino(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    tolerance: float = 1e-4,
    sentences: Sequence[str] = (),
    check: Check | None = None,
) -> Export:
    """Write `openvino/` of a student, through optimum-intel.

    Args:
        model_dir: folder or Hub id of a student of any task.
        output_dir: where to; by default the student's own folder.
        quantize: `"int8"` stores the weights in 8 bits, a quarter of the size.
        tolerance: the largest difference that an output may have from PyTorch's, in float32.
        sentences: on which they are compared; those of the package's demo by default.
        check: as in `export_onnx`.

    Returns:
        Which files were written, and what was measured.

    Raises:
        ValueError: an argument is wrong, or the outputs differ from the model's; nothing is left behind then.
        ImportError: says what to install.
    """
    if quantize not in (None, "int8"):
        raise ValueError(f"For OpenVINO, quantize must be None or int8; got {quantize!r}.")
    refuse_place(model_dir, output_dir, "OpenVINO")
    source = os.fspath(model_dir)
    model, tokenizer, inputs = opened(source, sentences)
    tag, kind = pipeline_tag(model), "int8" if quantize else "fp32"
    length = Encoder.from_model(model).at_most(LENGTH)
    with written_beside(output_dir or source) as staging:
        target = Path(staging) / FOLDER
        in_8_bits = _of_optimum_intel("OVWeightQuantizationConfig")(bits=8) if quantize else None
        with tempfile.TemporaryDirectory() as merged:
            model.save_pretrained(merged)
            _class(tag).from_pretrained(
                merged, export=True, compile=False, quantization_config=in_8_bits
            ).save_pretrained(target)
        apart = difference(model, OpenvinoModel(target, model.config, tag, exact=True), inputs)
        refuse_difference(apart, math.inf if quantize else tolerance)
        exported = OpenvinoModel(target, model.config, tag)
        scores = (check(kind, exported) if check is not None else None) or {}
        size = sum(path.stat().st_size for path in target.glob("openvino_model.*"))
        taken = median_milliseconds({kind: exported}, model.config, length)[kind]
        file = ExportedFile(f"{FOLDER}/{FILE}", None, "weights" if quantize else None, apart, size, taken, scores)
        where, threads = Path(output_dir or source), torch.get_num_threads()
        done = Export(where, "optimum-intel", {kind: file}, length, machine_name("cpu"), threads)
        write_facts(done, source, target)
        if output_dir is not None:
            copy_beside(source, Path(staging), model, tokenizer)
    return done


def _class(tag: str) -> _OpenvinoClass:
    return _of_optimum_intel(_CLASSES[tag])


def _of_optimum_intel(name: str) -> _OpenvinoClass:
    try:
        found: _OpenvinoClass = getattr(importlib.import_module("optimum.intel"), name)
        return found
    except ImportError as error:
        raise ImportError(
            "Exporting to OpenVINO needs optimum-intel, which works with transformers 4.57 and some releases of 5: "
            f"pip install 'optimum-intel[openvino]' ({error})."
        ) from None
