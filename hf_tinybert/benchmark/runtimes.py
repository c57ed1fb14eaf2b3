"""The runtimes of a model: PyTorch and ONNX Runtime, each also with 8-bit linear layers."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tinybert.export import exporters, optimize, quantize
from hf_tinybert.export.onnx import FILES, FOLDER
from hf_tinybert.export.session import OnnxModel
from hf_tinybert.hub import upload
from hf_tinybert.utils.extras import required
from hf_tinybert.utils.types import Forward

RUNTIMES = ("pytorch", "pytorch-int8", "onnxruntime", "onnxruntime-int8")


def find_runtimes(wanted: Sequence[str], device: torch.device) -> tuple[str, ...]:
    """The runtimes to use: those that are wanted, or all that work here.

    Raises:
        ValueError: a runtime is unknown, named twice, or does not work here.
    """
    for runtime in wanted:
        if runtime not in RUNTIMES:
            raise ValueError(f"Unknown runtime {runtime!r}; the runtimes are {', '.join(RUNTIMES)}.")
        if wanted.count(runtime) > 1:
            raise ValueError(f"The runtime {runtime!r} is named twice.")
        obstacle = _obstacle(runtime, device)
        if obstacle:
            raise ValueError(f"The runtime {runtime!r} does not work here: {obstacle}.")
    return tuple(wanted) or tuple(runtime for runtime in RUNTIMES if not _obstacle(runtime, device))


def prepare(
    runtime: str, model: PreTrainedModel, folder: str | None, scratch: str
) -> tuple[Callable[[int], Forward], int | None]:
    """A model in a runtime, and the size of its file, where that is not the model's own.

    Args:
        runtime: one of `RUNTIMES`.
        model: in eval mode, on its device.
        folder: of the model, which may hold an ONNX file, or None.
        scratch: a folder for temporary files.

    Returns:
        A function from a number of CPU threads to the forward pass, and bytes or None. The caller sets PyTorch's own
        number of threads.
    """
    if runtime == "pytorch-int8":
        quantized = _quantized(model)
        return lambda threads: quantized, _serialized_size(quantized)
    if runtime.startswith("onnxruntime"):
        file = _onnx_file(model, folder, scratch, quantised=runtime == "onnxruntime-int8")
        # Weights of large models are in files beside, model.onnx_data.
        size = sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
        return lambda threads: OnnxModel(file, model.config, threads), size
    return lambda threads: model, None


def _obstacle(runtime: str, device: torch.device) -> str | None:
    """Why a runtime does not work here, or None."""
    if runtime == "pytorch-int8":
        if device.type != "cpu":
            return f"dynamic quantisation runs on the CPU only, not on {device.type}"
        try:
            _quantized(nn.Sequential(nn.Linear(4, 4)))(torch.zeros(1, 4))
        except (ImportError, AttributeError, RuntimeError) as error:
            return f"torch {torch.__version__} cannot quantise ({error})"
    if runtime.startswith("onnxruntime"):
        if device.type != "cpu":
            return f"ONNX Runtime is measured on the CPU only, not on {device.type}"
        try:
            for name in ("onnx", "onnxruntime", *(() if exporters.has_optimum() else ("onnxscript",))):
                required(name, "it")
        except ImportError as error:
            return str(error).removesuffix(".")
    return None


def _quantized(model: nn.Module) -> nn.Module:
    """A copy whose linear layers compute with 8-bit integers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that quantisation moves to torchao
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def _serialized_size(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def _onnx_file(model: PreTrainedModel, folder: str | None, scratch: str, quantised: bool) -> Path:
    """The model's ONNX file: its folder's, or one that is made now, with fused attention where that can be."""
    name = FILES["int8" if quantised else "fp32"]
    fresh = folder is not None and not upload.is_stale(folder, FOLDER)
    present = [Path(folder) / FOLDER / name, Path(folder) / name] if folder and fresh else []
    file = next((path for path in present if path.is_file()), None)
    if file is None:
        target = Path(tempfile.mkdtemp(dir=scratch))
        file = target / "model.onnx"
        exporters.write(model, file)
        if optimize.can_fuse(model):
            plain, file = file, target / "fused" / "model.onnx"
            file.parent.mkdir()
            optimize.fuse(model, plain, file, "O2")
        if quantised:
            source, file = file, target / "model_quantized.onnx"
            quantize.to_int8(source, file, model.config)
    return file
