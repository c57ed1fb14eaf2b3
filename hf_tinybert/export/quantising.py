"""Weights and matrix products in 8-bit whole numbers, scaled as the batch needs (dynamic quantisation)."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

from transformers import PretrainedConfig

from hf_tinybert.export import tracing
from hf_tinybert.export.session import required


def to_int8(source: Path, target: Path, config: PretrainedConfig) -> None:
    """Write a dynamically quantised ONNX file; Optimum's quantiser where it is there, else ONNX Runtime's own.

    Args:
        source: in float32.
        target: to write.
        config: of the model.
    """
    required("onnxruntime")
    reduced = not has_vnni()
    if tracing.has_optimum():
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        kind = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "avx2" if reduced else "avx512_vnni"
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            settings = getattr(AutoQuantizationConfig, kind)(is_static=False, per_channel=True)
            settings.reduce_range = reduced
            ORTQuantizer(source, config).quantize(settings, save_dir=scratch, file_suffix="quantized")
            Path(scratch, f"{source.stem}_quantized.onnx").replace(target)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = required("onnx").load(source)
    del model.graph.value_info[:]  # shapes that PyTorch's exporter noted, which the quantiser would not find again
    quantize_dynamic(model, target, per_channel=True, reduce_range=reduced, weight_type=QuantType.QInt8)


def has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit numbers without overflow (VNNI); else weights get 7 bits."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "vnni" in flags
