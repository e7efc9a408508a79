"""Explainers of Alibi in MLServer."""

from mlserver_alibi_explain.runtime import AlibiExplainRuntime
from mlserver_alibi_explain.version import __version__

__all__ = ["AlibiExplainRuntime", "__version__"]
