"""Students as ONNX files: exported, quantised, and checked against PyTorch."""

from hf_tinybert.export.exporting import Export, ExportedFile, export_onnx

__all__ = ["Export", "ExportedFile", "export_onnx"]
