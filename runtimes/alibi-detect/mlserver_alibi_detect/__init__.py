"""Drift and outlier detectors of Alibi Detect in MLServer."""

from mlserver_alibi_detect.runtime import AlibiDetectRuntime
from mlserver_alibi_detect.version import __version__

__all__ = ["AlibiDetectRuntime", "__version__"]
