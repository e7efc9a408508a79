"""ONNX models in MLServer."""

from mlserver_onnx.onnx import OnnxModel
from mlserver_onnx.version import __version__

__all__ = ["OnnxModel", "__version__"]
