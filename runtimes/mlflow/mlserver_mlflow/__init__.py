"""MLflow models in MLServer.

Importing this package registers the content type `dict` and no more: the runtime comes when it is asked for,
and MLflow itself with the first model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserver_mlflow.codecs import TensorDictCodec
from mlserver_mlflow.version import __version__

if TYPE_CHECKING:
    from mlserver_mlflow.runtime import MLflowRuntime

__all__ = ["MLflowRuntime", "TensorDictCodec", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "MLflowRuntime":
        from mlserver_mlflow.runtime import MLflowRuntime

        return MLflowRuntime
    raise AttributeError(f"module 'mlserver_mlflow' has no attribute '{name}'")
