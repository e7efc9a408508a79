"""MLServer: serve Python models over the V2 / Open Inference Protocol.

`import mlserver` gives runtime authors what they need and loads little: names and submodules arrive when
first touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlserver.version import __version__

if TYPE_CHECKING:
    from mlserver.function import from_function
    from mlserver.metrics import log, register
    from mlserver.model import MLModel
    from mlserver.server import MLServer
    from mlserver.settings import ModelSettings, Settings

__all__ = [
    "MLModel",
    "MLServer",
    "ModelSettings",
    "Settings",
    "__version__",
    "from_function",
    "log",
    "register",
]

_HOMES = {
    "MLModel": "mlserver.model",
    "MLServer": "mlserver.server",
    "ModelSettings": "mlserver.settings",
    "Settings": "mlserver.settings",
    "from_function": "mlserver.function",
    "log": "mlserver.metrics",
    "register": "mlserver.metrics",
}
_SUBMODULES = {
    "artefact",
    "batching",
    "cache",
    "cloudevents",
    "codecs",
    "context",
    "env",
    "errors",
    "function",
    "grpc",
    "handlers",
    "kafka",
    "logging",
    "metrics",
    "model",
    "parallel",
    "raw",
    "registry",
    "repository",
    "rest",
    "server",
    "settings",
    "signature",
    "tabular",
    "types",
    "utils",
    "version",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"mlserver.{name}")
    else:
        raise AttributeError(f"module 'mlserver' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})
