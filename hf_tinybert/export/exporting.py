"""A student's folder to a folder with ONNX files, which were checked before anybody sees them."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_tinybert import tasks
from hf_tinybert.export import quantising, tracing
from hf_tinybert.export.session import OnnxModel
from hf_tinybert.hub import TOKENIZER_FILES
from hf_tinybert.saving import written_beside
from hf_tinybert.teacher import load_teacher, load_tokenizer, pipeline_tag, teacher_config

QUANTISATIONS = ("int8",)
FOLDER = "onnx"
#: `dtype` of transformers.js -> file.
FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        folder: where it lies.
        exporter: `"optimum"` or `"torch"`.
        differences: `fp32`, `int8` -> largest difference of an output from PyTorch's on the sentences.
        sizes: `fp32`, `int8` -> bytes.
    """

    folder: Path
    exporter: str
    differences: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def export_onnx(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    tolerance: float = 1e-4,
    sentences: Sequence[str] = (),
    check: Callable[[str, Path], None] | None = None,
) -> Export:
    """Write `onnx/model.onnx` of a student, configuration and tokenizer beside it: what transformers.js reads, too.

    Args:
        model_dir: folder or Hub id of a student of any task.
        output_dir: where to; by default the student's own folder.
        quantize: `"int8"` also writes `onnx/model_quantized.onnx`, dynamically quantised.
        tolerance: the largest difference that an output of the float32 file may have from PyTorch's.
        sentences: on which they are compared; those of the package's demo by default.
        check: is called with `"fp32"` or `"int8"` and the file, before it is moved to its place; what it raises leaves
            everything as it was.

    Returns:
        what was written.

    Raises:
        ValueError: an argument is wrong, or the file does not say what the model says; nothing is left behind then.
        ImportError: says what to install.
    """
    if quantize is not None and quantize not in QUANTISATIONS:
        raise ValueError(f"quantize must be None or one of {', '.join(QUANTISATIONS)}; got {quantize!r}.")
    if output_dir is None and not os.path.isdir(model_dir):
        raise ValueError(f"{model_dir} is no folder: say with output_dir where its ONNX files go.")
    source = os.fspath(model_dir)
    config = teacher_config(source, "model")
    task = tasks.of_model(config) or "feature-extraction"
    model = load_teacher(source, tasks.TASKS[task].auto, role="model").to("cpu").float().eval()
    tokenizer = load_tokenizer(source, "model")
    texts = list(sentences) or _sentences()
    inputs = dict(tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt"))
    differences, sizes = {}, {}
    with written_beside(output_dir or source) as staging:
        onnx = Path(staging) / FOLDER
        onnx.mkdir()
        plain = onnx / FILES["fp32"]
        exporter = tracing.write(model, plain)
        differences["fp32"] = difference(model, OnnxModel(plain, config), inputs)
        if not differences["fp32"] <= tolerance:
            raise ValueError(
                f"The exported model's outputs differ from PyTorch's by up to {differences['fp32']:.2g}, more than "
                f"the tolerance of {tolerance:g}: nothing was written."
            )
        if quantize is not None:
            quantising.to_int8(plain, onnx / FILES["int8"], config)
            differences["int8"] = difference(model, OnnxModel(onnx / FILES["int8"], config), inputs)
        if check is not None:
            for kind in differences:
                check(kind, onnx / FILES[kind])
        sizes = {kind: (onnx / name).stat().st_size for kind, name in FILES.items() if (onnx / name).is_file()}
        if output_dir is not None:
            _copy_beside(source, Path(staging), model, tokenizer)
    return Export(Path(output_dir or source), exporter, differences, sizes)


@torch.inference_mode()
def difference(model: PreTrainedModel, exported: OnnxModel, inputs: dict[str, Any]) -> float:
    """The largest difference of any output at real positions."""
    accepted = {name: value for name, value in inputs.items() if name in exported.inputs}
    own, found = model(**accepted, return_dict=True), exported(**accepted)
    real = inputs["attention_mask"].bool()
    of_tokens = pipeline_tag(model) != "text-classification"
    worst = torch.zeros(())
    for name in exported.outputs:
        apart = (own[name] - found[name]).abs()
        worst = torch.maximum(worst, (apart[real] if of_tokens else apart).max())  # NaN stays NaN
    return float(worst)


def _sentences() -> list[str]:
    """Real requests of different lengths."""
    text = (resources.files("hf_tinybert") / "demo_data" / "test.csv").read_text(encoding="utf-8")
    return [row["text"] for row in csv.DictReader(text.splitlines())][:32]


def _copy_beside(source: str, folder: Path, model: PreTrainedModel, tokenizer: Any) -> None:
    """Configuration and tokenizer, without weights."""
    model.config.save_pretrained(folder)
    if os.path.isdir(source):
        for path in Path(source).iterdir():
            if path.is_file() and path.name in TOKENIZER_FILES:
                shutil.copyfile(path, folder / path.name)
    else:
        tokenizer.save_pretrained(folder)
