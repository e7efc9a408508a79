"""The registry of custom metrics; importing it imports prometheus_client."""

from __future__ import annotations

from prometheus_client.registry import Collector, CollectorRegistry

from mlserver.metrics.errors import MetricNotFound

__all__ = ["REGISTRY", "MetricsRegistry"]


class MetricsRegistry(CollectorRegistry):
    """A registry of prometheus_client whose metrics can be looked up by name."""

    def exists(self, metric_name: str) -> bool:
        return metric_name in self._names_to_collectors

    def get(self, metric_name: str) -> Collector:
        """The metric of that name. Raises MetricNotFound."""
        try:
            return self._names_to_collectors[metric_name]
        except KeyError:
            raise MetricNotFound(metric_name) from None

    __contains__ = exists
    __getitem__ = get


REGISTRY = MetricsRegistry()
