"""Metrics that models add. The Prometheus library is imported by the first of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mlserver.context import model_name_var, model_version_var
from mlserver.metrics.context import SELDON_MODEL_NAME_LABEL, SELDON_MODEL_VERSION_LABEL
from mlserver.metrics.errors import InvalidModelContext

if TYPE_CHECKING:
    from prometheus_client import Histogram

__all__ = ["log", "register"]

_lock = threading.Lock()


def register(name: str, description: str) -> Histogram:
    """A histogram with labels `model_name`, `model_version`; what is there already, if the name is taken."""
    from prometheus_client import Histogram

    from mlserver.metrics.registry import REGISTRY

    with _lock:
        if name in REGISTRY:
            existing: Any = REGISTRY[name]
            return existing  # type: ignore[no-any-return]
        return Histogram(
            name, description, (SELDON_MODEL_NAME_LABEL, SELDON_MODEL_VERSION_LABEL), registry=REGISTRY
        )


def log(**metrics: float) -> None:
    """Observe values of histograms by their names, for the current model. Names that are new get registered.

    Raises InvalidModelContext outside of a model.
    """
    try:
        labels = {
            SELDON_MODEL_NAME_LABEL: model_name_var.get(),
            SELDON_MODEL_VERSION_LABEL: model_version_var.get(),
        }
    except LookupError:
        raise InvalidModelContext(metrics) from None
    for name, value in metrics.items():
        register(name, "Logged by a model.").labels(**labels).observe(value)
