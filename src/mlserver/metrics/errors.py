"""What can go wrong with custom metrics. Faults of the model, so clients see a 500."""

from __future__ import annotations

from collections.abc import Iterable

from mlserver.errors import MLServerError

__all__ = ["InvalidModelContext", "MetricNotFound"]


class InvalidModelContext(MLServerError):
    """`log` was called by code that belongs to no model, so the labels of the metric are unknown."""

    def __init__(self, metrics: Iterable[str] = ()) -> None:
        names = ", ".join(f"'{name}'" for name in metrics)
        super().__init__(f"Cannot log metrics{' ' if names else ''}{names} outside of a model context", 500)


class MetricNotFound(MLServerError):
    """The registry holds no metric of that name."""

    def __init__(self, metric_name: str) -> None:
        super().__init__(f"No metric found with name '{metric_name}'", 500)
