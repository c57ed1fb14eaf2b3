"""Weights and matrix products in 8-bit integers (int8).

Dynamic: activations are scaled as each batch needs. Static: by ranges that were found on calibration data.

Weights are signed. ONNX Runtime multiplies unsigned activations by signed weights with the processor's instructions
for it (VNNI, AMX); with unsigned weights, as Optimum's setting for AVX2 has them, it takes a path that is no faster
than float32.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

from hf_tinybert.export import exporters
from hf_tinybert.export.model_inputs import ModelInputs
from hf_tinybert.utils.extras import required

#: Rows as the tokenizer makes them.
Rows: TypeAlias = Sequence[Mapping[str, Sequence[int]]]
#: What is multiplied or looked up with weights; the rest stays in float32.
_DYNAMIC = ["MatMul", "Gemm", "Attention", "Gather", "EmbedLayerNormalization"]
_STATIC = ["MatMul", "Gemm", "Gather"]


def to_int8(
    source: Path,
    target: Path,
    config: PretrainedConfig,
    calibration: Rows | None = None,
) -> None:
    """Write a quantised ONNX file; by Optimum's quantiser where it is there, else by ONNX Runtime's, which it calls.

    Args:
        source: in float32; without fused operators where calibration data is given.
        target: to write.
        config: of the model.
        calibration: rows as the tokenizer makes them, for static quantisation; None for dynamic.
    """
    required("onnxruntime", "Quantisation")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, _without_advice():
        if exporters.has_optimum():
            _by_optimum(source, target, config, calibration, Path(scratch))
        else:
            _by_onnxruntime(source, target, calibration, Path(scratch))


def has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit numbers without overflow (VNNI); else weights get 7 bits."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "vnni" in flags


def _by_optimum(
    source: Path,
    target: Path,
    config: PretrainedConfig,
    calibration: Rows | None,
    scratch: Path,
) -> None:
    import datasets
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

    onnx = required("onnx", "Quantisation")
    typed = scratch / "model.onnx"  # the quantiser asks for types that ONNX does not know of fused operators
    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load(source), auto_merge=True), typed)
    kind = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "avx512_vnni"
    operators = _DYNAMIC if calibration is None else _STATIC
    settings = getattr(AutoQuantizationConfig, kind)(
        is_static=calibration is not None, per_channel=True, operators_to_quantize=operators
    )
    settings.reduce_range = not has_vnni()
    quantizer, ranges = ORTQuantizer(typed, config), None
    if calibration is not None:
        data = datasets.Dataset.from_list(_rows(calibration, source))
        ranges = quantizer.fit(
            data,
            AutoCalibrationConfig.minmax(data),
            onnx_augmented_model_name=str(scratch / "augmented.onnx"),
            operators_to_quantize=operators,
        )
    quantizer.quantize(settings, scratch, file_suffix="quantized", calibration_tensors_range=ranges)
    (scratch / "model_quantized.onnx").replace(target)


def _by_onnxruntime(source: Path, target: Path, calibration: Rows | None, scratch: Path) -> None:
    from onnxruntime import quantization

    onnx = required("onnx", "Quantisation")
    model = onnx.load(source)
    del model.graph.value_info[:]  # shapes that PyTorch's exporter noted, which the quantiser would not find again
    common = {
        "per_channel": True,
        "reduce_range": not has_vnni(),
        "weight_type": quantization.QuantType.QInt8,
        "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT},
    }
    if calibration is None:
        quantization.quantize_dynamic(model, target, op_types_to_quantize=_DYNAMIC, **common)
        return
    typed = scratch / "model.onnx"
    onnx.save(model, typed)
    rows = iter(_rows(calibration, source))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Gives one row after another."""

        def get_next(self) -> dict[str, npt.NDArray[np.int64]] | None:
            row = next(rows, None)
            return None if row is None else {name: np.asarray([value], dtype=np.int64) for name, value in row.items()}

    activations = quantization.QuantType.QUInt8
    quantization.quantize_static(
        typed, target, Reader(), activation_type=activations, op_types_to_quantize=_STATIC, **common
    )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Leaves out the quantiser's advice to infer shapes before, which ONNX cannot of fused operators."""

    def wanted(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    logging.getLogger().addFilter(wanted)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(wanted)


def _rows(calibration: Rows, source: Path) -> list[dict[str, list[int]]]:
    """Rows with the model's inputs, in its order."""
    graph = required("onnx", "Quantisation").load(source, load_external_data=False).graph
    inputs = ModelInputs([value.name for value in graph.input])
    return [inputs.complete_row(row) for row in calibration]
