"""Hugging Face pipelines in MLServer."""

from mlserver_huggingface.runtime import HuggingFaceRuntime
from mlserver_huggingface.version import __version__

__all__ = ["HuggingFaceRuntime", "__version__"]
