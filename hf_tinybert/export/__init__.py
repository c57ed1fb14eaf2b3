"""Students as ONNX or OpenVINO files: exported, quantised, and checked against PyTorch."""

from hf_tinybert.export.onnx import Export, ExportedFile, export_onnx
from hf_tinybert.export.openvino import export_openvino

__all__ = ["Export", "ExportedFile", "export_onnx", "export_openvino"]
