"""Metrics for Prometheus: those of the server, and those that models add.

Names arrive when first touched: counting requests needs no Prometheus library, only a custom metric or a
scrape does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserver.metrics.custom import log, register
    from mlserver.metrics.exposition import configure_metrics, process_stopped, release_metrics, scrape
    from mlserver.metrics.registry import REGISTRY
    from mlserver.metrics.requests import RequestMetrics
    from mlserver.metrics.server import MetricsServer

__all__ = [
    "REGISTRY",
    "MetricsServer",
    "RequestMetrics",
    "configure_metrics",
    "log",
    "process_stopped",
    "register",
    "release_metrics",
    "scrape",
]

_HOMES = {
    "REGISTRY": "registry",
    "MetricsServer": "server",
    "RequestMetrics": "requests",
    "configure_metrics": "exposition",
    "log": "custom",
    "process_stopped": "exposition",
    "register": "custom",
    "release_metrics": "exposition",
    "scrape": "exposition",
}
_SUBMODULES = frozenset(("context", "custom", "errors", "exposition", "registry", "requests", "server"))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"mlserver.metrics.{_HOMES[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"mlserver.metrics.{name}")
    else:
        raise AttributeError(f"module 'mlserver.metrics' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_SUBMODULES})
