"""Counts requests at little cost to them: plain objects with numbers, which a scrape turns into series.

The objects belong to the event loop's thread. A scrape may run in another: it may then see a request that is
counted in one series and not yet in the next, never a broken one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = [
    "BUCKETS",
    "CacheCounters",
    "Gauge",
    "Histogram",
    "MethodCounters",
    "ModelCounters",
    "RequestMetrics",
    "RouteCounters",
]

# Upper bounds; Prometheus' own defaults, which dashboards of existing users rely on.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)
_FIRST = BUCKETS[0]
_BUCKET_NAMES = (*(str(bound) for bound in BUCKETS[:-1]), "+Inf")

# Label of what clients made up: methods, and models once too many different ones were asked for.
OTHER = "__other__"
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))


class Histogram:
    """How many observations fell into each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * len(BUCKETS)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.total += value
        if value <= _FIRST:
            self.counts[0] += 1
        else:
            self.counts[bisect_left(BUCKETS, value)] += 1

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of upper bound and number of observations up to it, as Prometheus wants them."""
        pairs, so_far = [], 0
        for name, count in zip(_BUCKET_NAMES, self.counts, strict=True):
            so_far += count
            pairs.append((name, float(so_far)))
        return pairs


class RouteCounters(Histogram):
    """Requests of one method to one route that got one status, by their duration in seconds."""

    __slots__ = ()


class MethodCounters(Histogram):
    """Calls of one gRPC method: how many began, how they ended and after how long; messages of streams."""

    __slots__ = ("handled", "received", "sent", "started")

    def __init__(self) -> None:
        super().__init__()
        self.started = 0
        self.handled: dict[str, int] = {}  # by the name of the status code
        self.received = 0
        self.sent = 0

    def ended(self, code: str, seconds: float) -> None:
        self.handled[code] = self.handled.get(code, 0) + 1
        self.observe(seconds)


class ModelCounters:
    """Inferences of one model: how many succeeded and failed, and the seconds they took, waiting included."""

    __slots__ = ("failure", "seconds", "success")

    def __init__(self) -> None:
        self.success = 0
        self.failure = 0
        self.seconds = 0.0

    def observe(self, success: bool, seconds: float) -> None:
        self.seconds += seconds
        if success:
            self.success += 1
        else:
            self.failure += 1


class CacheCounters:
    """Inferences of one model that the response cache could and could not answer."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class RequestMetrics:
    """The request series of one server, and a Prometheus collector of them.

    The methods that return counters create them when first asked for; callers may keep what they got.
    """

    def __init__(
        self, prefix: str = "rest_server", app_name: str = "mlserver", max_unknown_models: int = 1000
    ) -> None:
        """prefix: first part of the names of the REST series.

        max_unknown_models: pairs of model and version that are counted apart though there is no such model;
        further ones share the labels `__other__`.
        """
        self.prefix = prefix
        self.app_name = app_name
        self._unknown_left = max_unknown_models
        self._models: dict[tuple[str, str], ModelCounters] = {}
        self._routes: dict[tuple[str, str, int], RouteCounters] = {}
        self._in_progress: dict[str, Gauge] = {}
        self._methods: dict[tuple[str, str, str], MethodCounters] = {}
        self._batch_queues: dict[tuple[str, str], Histogram] = {}
        self._parallel_queue: Histogram | None = None
        self._caches: dict[tuple[str, str], CacheCounters] = {}

    def model(self, name: str, version: str, known: bool = True) -> ModelCounters:
        """version: the label, which is the text that the client sent.

        known: whether there is such a model; what clients make up must not use memory without limit.
        """
        counters = self._models.get((name, version))
        if counters is None:
            if not known:
                if self._unknown_left <= 0:
                    return self._models.setdefault((OTHER, OTHER), ModelCounters())
                self._unknown_left -= 1
            counters = self._models[name, version] = ModelCounters()
        return counters

    def cache(self, name: str, version: str) -> CacheCounters:
        """Labels as for `model`."""
        return self._caches.setdefault((name, version), CacheCounters())

    def route(self, method: str, template: str, status: int) -> RouteCounters:
        """template: path of the route as it was declared, such as `/v2/models/{model_name}/infer`."""
        counters = self._routes.get((method, template, status))
        if counters is None:
            key = (_known(method), template, status)
            counters = self._routes.setdefault(key, RouteCounters())
        return counters

    def in_progress(self, method: str) -> Gauge:
        """Requests that are being answered."""
        gauge = self._in_progress.get(method)
        if gauge is None:
            gauge = self._in_progress.setdefault(_known(method), Gauge())
        return gauge

    def grpc_method(self, kind: str, service: str, name: str) -> MethodCounters:
        """kind: `UNARY`, `BIDI_STREAMING` and so on."""
        return self._methods.setdefault((kind, service, name), MethodCounters())

    def batch_queue(self, name: str, version: str) -> Histogram:
        """Requests that wait for a batch, as seen by each that joins them. version: `""` for none."""
        histogram = self._batch_queues.get((name, version))
        if histogram is None:
            histogram = self._batch_queues[name, version] = Histogram()
        return histogram

    def parallel_queue(self) -> Histogram:
        """Messages that workers had not answered yet, seen by each that was sent."""
        if self._parallel_queue is None:
            self._parallel_queue = Histogram()
        return self._parallel_queue

    # What follows is what prometheus_client asks of a collector.

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_models()
        yield from self._collect_routes()
        yield from self._collect_methods()
        yield _histogram(
            "batch_request_queue",
            "Requests waiting for a batch, at the arrival of one.",
            ("model_name", "model_version"),
            list(self._batch_queues.items()),
        )
        if self._parallel_queue is not None:
            yield _histogram(
                "parallel_request_queue",
                "Messages waiting for an answer of a worker, at the sending of one.",
                (),
                [((), self._parallel_queue)],
            )

    def describe(self) -> Iterable[Metric]:
        return ()

    def _collect_models(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

        labels = ("model", "version")
        success = CounterMetricFamily(
            "model_infer_request_success", "Inferences that succeeded.", labels=labels
        )
        failure = CounterMetricFamily("model_infer_request_failure", "Inferences that failed.", labels=labels)
        duration = SummaryMetricFamily(
            "model_infer_request_duration", "Seconds that inferences took, waiting included.", labels=labels
        )
        for key, counters in list(self._models.items()):
            if counters.success:
                success.add_metric(key, counters.success)
            failure.add_metric(key, counters.failure)
            duration.add_metric(key, counters.success + counters.failure, counters.seconds)
        yield success
        yield failure
        yield duration
        hits = CounterMetricFamily("model_cache_hit", "Inferences answered by the cache.", labels=labels)
        misses = CounterMetricFamily("model_cache_miss", "Inferences it had no answer for.", labels=labels)
        for key, cache in list(self._caches.items()):
            hits.add_metric(key, cache.hits)
            misses.add_metric(key, cache.misses)
        yield hits
        yield misses

    def _collect_routes(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ("method", "path", "status_code", "app_name")
        series = [
            ((method, template, str(status), self.app_name), counters)
            for (method, template, status), counters in list(self._routes.items())
        ]
        requests = CounterMetricFamily(f"{self.prefix}_requests", "REST requests.", labels=labels)
        for values, counters in series:
            requests.add_metric(values, sum(counters.counts))
        yield requests
        yield _histogram(
            f"{self.prefix}_request_duration_seconds", "Seconds that REST requests took.", labels, series
        )
        in_progress = GaugeMetricFamily(
            f"{self.prefix}_requests_in_progress",
            "REST requests that are being answered.",
            labels=("method", "app_name"),
        )
        for method, gauge in list(self._in_progress.items()):
            in_progress.add_metric((method, self.app_name), gauge.value)
        yield in_progress

    def _collect_methods(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        labels = ("grpc_type", "grpc_service", "grpc_method")
        started = CounterMetricFamily("grpc_server_started", "gRPC calls that began.", labels=labels)
        handled = CounterMetricFamily(
            "grpc_server_handled", "gRPC calls that ended.", labels=(*labels, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Messages of streams.", labels=labels)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages of reply streams.", labels=labels)
        begun = [(key, counters) for key, counters in list(self._methods.items()) if counters.started]
        for key, counters in begun:
            started.add_metric(key, counters.started)
            for code, count in list(counters.handled.items()):
                handled.add_metric((*key, code), count)
            if key[0] != "UNARY":
                received.add_metric(key, counters.received)
                sent.add_metric(key, counters.sent)
        yield started
        yield handled
        yield received
        yield sent
        yield _histogram("grpc_server_handling_seconds", "Seconds that gRPC calls took.", labels, begun)


def _known(method: str) -> str:
    return method if method in _METHODS else OTHER


def _histogram(
    name: str, text: str, labels: tuple[str, ...], series: Iterable[tuple[tuple[str, ...], Histogram]]
) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family: Any = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in series:
        family.add_metric(values, histogram.cumulative(), histogram.total)
    return family  # type: ignore[no-any-return]
