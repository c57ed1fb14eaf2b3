"""The runtimes in which a model can answer: PyTorch, PyTorch with 8-bit linear layers, ONNX Runtime."""

from __future__ import annotations

import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

RUNTIMES = ("pytorch", "pytorch-int8", "onnxruntime")

_ONNX_FILES = ("onnx/model.onnx", "model.onnx")


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
    runtime: str, model: PreTrainedModel, folder: str | None, threads: int, scratch: str
) -> tuple[Callable[..., Any], int | None]:
    """A model in a runtime, and the size of what it is read from, where that is not the model's own file.

    Args:
        runtime: one of `RUNTIMES`.
        model: in eval mode, on its device.
        folder: where the model came from, which may hold an ONNX file, or None.
        threads: CPU threads.
        scratch: a folder for what is made on the way.
    """
    if runtime == "pytorch-int8":
        quantized = _quantized(model)
        return quantized, _serialized_size(quantized)
    if runtime == "onnxruntime":
        exported = _onnx(model, folder, threads, scratch)
        # Weights of large models are in files beside, model.onnx_data.
        files = exported.path.parent.glob(f"{exported.path.name}*")
        return exported, sum(file.stat().st_size for file in files)
    return model, None


def _obstacle(runtime: str, device: torch.device) -> str | None:
    """Why a runtime does not work here, or None."""
    if runtime == "pytorch-int8":
        if device.type != "cpu":
            return f"dynamic quantisation runs on the CPU only, not on {device.type}"
        try:
            _quantized(nn.Sequential(nn.Linear(4, 4)))(torch.zeros(1, 4))
        except (ImportError, AttributeError, RuntimeError) as error:
            return f"torch {torch.__version__} cannot quantise ({error})"
    if runtime == "onnxruntime":
        if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("onnxruntime") is None:
            return "it needs Optimum: pip install 'hf-tinybert[onnx]'"
        try:
            import onnxruntime
            from optimum.onnxruntime import ORTModelForSequenceClassification  # noqa: F401
        except ImportError as error:
            return f"Optimum cannot be imported ({error})"
        if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "the installed onnxruntime has no CUDAExecutionProvider"
    return None


def _quantized(model: nn.Module) -> nn.Module:
    """A copy whose linear layers compute with 8-bit whole numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that quantisation moves to torchao
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def _serialized_size(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def _onnx(model: PreTrainedModel, folder: str | None, threads: int, scratch: str) -> Any:
    """The model in ONNX Runtime: from its folder's ONNX file, or exported."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin on after their turn would be timed with the next model.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    provider = "CUDAExecutionProvider" if model.device.type == "cuda" else "CPUExecutionProvider"
    present = [Path(folder) / name for name in _ONNX_FILES] if folder else []
    file = next((path for path in present if path.is_file()), None)
    if file is not None:
        # `from_pretrained` finds files by patterns, and not always this one.
        session = onnxruntime.InferenceSession(file, options, providers=[provider])
        return ORTModelForSequenceClassification(config=model.config, session=session)
    target = tempfile.mkdtemp(dir=scratch)
    model.save_pretrained(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter's tracing has to say
        return ORTModelForSequenceClassification.from_pretrained(
            target, export=True, config=model.config, provider=provider, session_options=options
        )
