from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from mlserver import metrics
from mlserver.context import model_context
from mlserver.metrics import REGISTRY, RequestMetrics, configure_metrics, exposition, log, register, scrape
from mlserver.metrics.context import SELDON_MODEL_NAME_LABEL, SELDON_MODEL_VERSION_LABEL
from mlserver.metrics.errors import InvalidModelContext, MetricNotFound
from mlserver.metrics.requests import BUCKETS, ModelCounters
from mlserver.metrics.requests import Histogram as PlainHistogram
from mlserver.settings import ModelParameters, ModelSettings, Settings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Custom metrics and the choice of where they live are global: take both back."""
    before = set(REGISTRY._collector_to_names)
    defaults = set(prometheus_client.REGISTRY._collector_to_names)
    yield
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)
    for collector in set(prometheus_client.REGISTRY._collector_to_names) - defaults:
        prometheus_client.REGISTRY.unregister(collector)
    exposition.release_metrics()
    configure_metrics(Settings(parallel_workers=0))


def model(name: str, version: str | None = None) -> ModelSettings:
    return ModelSettings(implementation="a.B", name=name, parameters=ModelParameters(version=version))


def samples(text: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


# Custom metrics


def test_registered_metrics() -> None:
    metric = register("test_registered", "A test.")
    assert isinstance(metric, Histogram)
    assert register("test_registered", "Another text.") is metric
    assert REGISTRY["test_registered"] is metric
    assert REGISTRY.get("test_registered") is metric
    assert "test_registered" in REGISTRY
    assert REGISTRY.exists("test_registered")
    assert REGISTRY is not prometheus_client.REGISTRY
    metric.labels(model_name="m", model_version="v").observe(0.5)
    shown = samples(scrape()[0])
    assert shown[key("test_registered_sum", model_name="m", model_version="v")] == 0.5


def test_unknown_metrics() -> None:
    assert "test_unknown" not in REGISTRY
    for look_up in (REGISTRY.get, REGISTRY.__getitem__):
        with pytest.raises(MetricNotFound) as caught:
            look_up("test_unknown")
        assert str(caught.value) == "No metric found with name 'test_unknown'"
        assert caught.value.status_code == 500


@pytest.mark.parametrize("version", [None, "v1"])
def test_logged_metrics(version: str | None) -> None:
    with model_context(model("m", version)):
        log(test_logged=0.5, test_logged_too=3)
        log(test_logged=7)
    shown = samples(scrape()[0])
    labels = {SELDON_MODEL_NAME_LABEL: "m", SELDON_MODEL_VERSION_LABEL: version or ""}
    assert shown[key("test_logged_sum", **labels)] == 7.5
    assert shown[key("test_logged_count", **labels)] == 2
    assert shown[key("test_logged_bucket", le="0.5", **labels)] == 1
    assert shown[key("test_logged_too_count", **labels)] == 1


def test_logging_outside_of_a_model() -> None:
    with pytest.raises(InvalidModelContext, match="'test_outside'") as caught:
        log(test_outside=1)
    assert caught.value.status_code == 500
    assert "test_outside" not in REGISTRY


def test_logging_for_long_names() -> None:
    with model_context(model("m" * 300, "v" * 300)):
        log(test_long=1)
    assert samples(scrape()[0])[key("test_long_count", model_name="m" * 300, model_version="v" * 300)] == 1


def test_label_names() -> None:
    assert (SELDON_MODEL_NAME_LABEL, SELDON_MODEL_VERSION_LABEL) == ("model_name", "model_version")


def test_metrics_of_all_registries_are_shown_once() -> None:
    Counter("test_default", "In the default registry.").inc(2)
    Counter("test_ours", "In ours.", registry=REGISTRY).inc(3)
    Counter("test_both", "In both.").inc(4)
    Counter("test_both", "In both.", registry=REGISTRY).inc(5)
    Counter("test_elsewhere", "In another.", registry=CollectorRegistry())
    body, content_type = scrape(RequestMetrics())
    shown = samples(body)
    assert shown[key("test_default_total")] == 2
    assert shown[key("test_ours_total")] == 3
    assert shown[key("test_both_total")] == 4
    assert key("test_elsewhere_total") not in shown
    assert content_type.startswith("text/plain")
    assert b"python_info" in body
    assert b"process_cpu_seconds_total" in body


def test_names_of_the_package() -> None:
    assert metrics.register is register
    assert metrics.errors.MetricNotFound is MetricNotFound
    assert set(metrics.__all__) <= set(dir(metrics))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = metrics.no_such_name


@pytest.mark.parametrize(
    "module", ["mlserver", "mlserver.metrics", "mlserver.metrics.requests", "mlserver.metrics.custom"]
)
def test_prometheus_is_imported_late(module: str) -> None:
    code = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Requests


def test_series_of_models() -> None:
    requests = RequestMetrics()
    requests.model("m", "v1").observe(True, 0.25)
    requests.model("m", "v1").observe(True, 0.5)
    requests.model("m", "None").observe(False, 1.0)
    assert requests.model("m", "v1") is requests.model("m", "v1")
    body, _ = scrape(requests)
    shown = samples(body)
    v1 = {"model": "m", "version": "v1"}
    unversioned = {"model": "m", "version": "None"}
    assert shown[key("model_infer_request_success_total", **v1)] == 2
    assert shown[key("model_infer_request_failure_total", **v1)] == 0
    assert shown[key("model_infer_request_duration_count", **v1)] == 2
    assert shown[key("model_infer_request_duration_sum", **v1)] == 0.75
    assert shown[key("model_infer_request_failure_total", **unversioned)] == 1
    assert shown[key("model_infer_request_duration_sum", **unversioned)] == 1
    assert key("model_infer_request_success_total", **unversioned) not in shown
    text = body.decode()
    assert "# TYPE model_infer_request_success_total counter" in text
    assert "# TYPE model_infer_request_failure_total counter" in text
    assert "# TYPE model_infer_request_duration summary" in text
    assert 'model_infer_request_failure_total{model="m",version="v1"} 0.0' in text


@pytest.mark.parametrize("prefix", ["rest_server", "mine"])
def test_series_of_routes(prefix: str) -> None:
    requests = RequestMetrics(prefix)
    path = "/v2/models/{model_name}/infer"
    for seconds in (0.001, 0.005, 0.0051, 0.3, 99.0):
        requests.route("POST", path, 200).observe(seconds)
    requests.route("POST", path, 404).observe(0.001)
    requests.in_progress("POST").value += 2
    requests.in_progress("POST").value -= 1
    body, _ = scrape(requests)
    shown = samples(body)
    labels = {"method": "POST", "path": path, "status_code": "200", "app_name": "mlserver"}
    duration = f"{prefix}_request_duration_seconds"
    assert shown[key(f"{prefix}_requests_total", **labels)] == 5
    assert shown[key(f"{prefix}_requests_total", **{**labels, "status_code": "404"})] == 1
    assert shown[key(f"{duration}_count", **labels)] == 5
    assert shown[key(f"{duration}_sum", **labels)] == pytest.approx(99.3111)
    expected = {"0.005": 2, "0.01": 3, "0.25": 3, "0.5": 4, "10.0": 4, "+Inf": 5}
    for bound, count in expected.items():
        assert shown[key(f"{duration}_bucket", le=bound, **labels)] == count
    assert shown[key(f"{prefix}_requests_in_progress", method="POST", app_name="mlserver")] == 1
    text = body.decode()
    assert f"# TYPE {prefix}_requests_total counter" in text
    assert f"# TYPE {duration} histogram" in text
    assert f"# TYPE {prefix}_requests_in_progress gauge" in text


def test_buckets_are_those_of_the_library() -> None:
    assert BUCKETS == Histogram.DEFAULT_BUCKETS


def test_buckets_agree_with_the_library() -> None:
    values = [-1.0, 0.0, *BUCKETS[:-1], *(bound * 1.0001 for bound in BUCKETS[:-1]), 1e9, math.inf]
    theirs = Histogram("test_reference", "A test.", registry=None)
    ours = PlainHistogram()
    for value in values:
        theirs.observe(value)
        ours.observe(value)
    expected = {
        s.labels["le"]: s.value for s in next(iter(theirs.collect())).samples if s.name.endswith("_bucket")
    }
    assert dict(ours.cumulative()) == expected


def test_series_of_queues() -> None:
    requests = RequestMetrics()
    requests.batch_queue("m", "").observe(3)
    assert key("parallel_request_queue_count") not in samples(scrape(requests)[0])
    requests.parallel_queue().observe(2)
    shown = samples(scrape(requests)[0])
    assert shown[key("batch_request_queue_sum", model_name="m", model_version="")] == 3
    assert shown[key("batch_request_queue_bucket", model_name="m", model_version="", le="2.5")] == 0
    assert shown[key("batch_request_queue_bucket", model_name="m", model_version="", le="5.0")] == 1
    assert shown[key("parallel_request_queue_sum")] == 2


def test_labels_are_escaped() -> None:
    requests = RequestMetrics()
    name = 'a "name"\nwith \\ and ü'
    requests.model(name, "").observe(True, 0)
    body, _ = scrape(requests)
    shown = samples(body)
    assert shown[key("model_infer_request_success_total", model=name, version="")] == 1


def test_made_up_models_do_not_use_memory_without_limit() -> None:
    requests = RequestMetrics(max_unknown_models=10)
    for number in range(1000):
        requests.model(f"m{number}", "None", known=False).observe(False, 0.0)
    requests.model("m3", "None", known=False).observe(False, 0.0)
    requests.model("real", "None").observe(True, 0.0)
    requests.model("real", "made-up", known=False).observe(False, 0.0)
    shown = samples(scrape(requests)[0])
    failures = {
        dict(labels)["model"]: value
        for (name, labels), value in shown.items()
        if name == "model_infer_request_failure_total"
    }
    assert len(failures) == 12
    assert failures["m3"] == 2
    assert failures["real"] == 0
    assert failures["__other__"] == 991


def test_made_up_methods_do_not_use_memory_without_limit() -> None:
    requests = RequestMetrics()
    for number in range(100):
        requests.in_progress(f"METHOD{number}").value += 1
        requests.route(f"METHOD{number}", "/v2", 200).observe(0.1)
    shown = samples(scrape(requests)[0])
    labels = {"method": "__other__", "app_name": "mlserver"}
    assert shown[key("rest_server_requests_in_progress", **labels)] == 100
    assert shown[key("rest_server_requests_total", path="/v2", status_code="200", **labels)] == 100


def test_counting_allocates_no_attributes() -> None:
    counters: Any = ModelCounters()
    with pytest.raises(AttributeError):
        counters.other = 1


# Metrics of several processes


COUNT = """
import sys
from prometheus_client import Counter, Gauge
Counter("test_of_workers", "A test.").inc(int(sys.argv[1]))
Gauge("test_live", "A test.", multiprocess_mode="liveall").set(1)
from mlserver.context import model_context
from mlserver.metrics import log
from mlserver.settings import ModelSettings
with model_context(ModelSettings(implementation="a.B", name="m")):
    log(test_logged_by_workers=float(sys.argv[1]))
print(__import__("os").getpid())
"""


def worker(amount: int) -> int:
    """Counts in a process of its own, and returns the id that it had."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(amount)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_workers_are_added_up(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    configure_metrics(Settings(parallel_workers=2, metrics_dir=str(folder)))
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
    first = worker(2)
    worker(3)
    Counter("test_of_workers", "A test.").inc(
        4
    )  # the main process takes part, though it imported the library before
    requests = RequestMetrics()
    requests.model("m", "").observe(True, 0.5)
    body, _ = scrape(requests)
    shown = samples(body)
    assert shown[key("test_of_workers_total")] == 9
    assert shown[key("test_logged_by_workers_sum", model_name="m", model_version="")] == 5
    assert shown[key("test_logged_by_workers_count", model_name="m", model_version="")] == 2
    assert shown[key("model_infer_request_success_total", model="m", version="")] == 1
    assert b"python_info" not in body
    assert sum(name == "test_live" for name, _ in shown) == 2

    exposition.process_stopped(first)
    shown = samples(scrape(requests)[0])
    assert shown[key("test_of_workers_total")] == 9
    assert sum(name == "test_live" for name, _ in shown) == 1

    exposition.release_metrics()
    assert [path for path in folder.glob("*.db") if not path.stem.endswith(f"_{os.getpid()}")] == []
    assert folder.is_dir()


def test_a_later_server_without_workers_counts_in_memory(tmp_path: Path) -> None:
    configure_metrics(Settings(parallel_workers=1, metrics_dir=str(tmp_path)))
    exposition.release_metrics()
    configure_metrics(Settings(parallel_workers=0, metrics_dir=str(tmp_path)))
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    files = set(tmp_path.iterdir())
    Counter("test_in_memory", "A test.").inc()
    assert samples(scrape()[0])[key("test_in_memory_total")] == 1
    assert set(tmp_path.iterdir()) == files


def test_metrics_switched_off_need_no_folder(tmp_path: Path) -> None:
    configure_metrics(Settings(parallel_workers=1, metrics_endpoint=None, metrics_dir=str(tmp_path / "m")))
    assert not (tmp_path / "m").exists()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def test_a_damaged_file_leaves_the_rest_of_the_scrape(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configure_metrics(Settings(parallel_workers=1, metrics_dir=str(tmp_path)))
    worker(2)
    (tmp_path / "counter_1.db").write_bytes(struct.pack("iii", 96, 0, 10_000) + b"x" * 100)
    requests = RequestMetrics()
    requests.model("m", "").observe(True, 0.5)
    shown = samples(scrape(requests)[0])
    assert shown[key("model_infer_request_success_total", model="m", version="")] == 1
    assert shown[key("test_of_workers_total")] == 2
    assert "counter_1.db cannot be read" in caplog.text


SERVER = """
import sys
from mlserver.metrics.exposition import configure_metrics
from mlserver.settings import Settings
configure_metrics(Settings(parallel_workers=1, metrics_dir=sys.argv[1]))
from prometheus_client import Counter
Counter("test_neighbour", "A test.").inc()
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_servers_may_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"")  # left behind; a process with this id is always running
    (tmp_path / "kept.txt").write_text("")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as neighbour:
        assert neighbour.stdin is not None
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == "ready\n"
        assert not (tmp_path / "counter_1.db").exists()
        assert (tmp_path / f"counter_{neighbour.pid}.db").exists()
        configure_metrics(Settings(parallel_workers=1, metrics_dir=str(tmp_path)))
        assert samples(scrape()[0])[key("test_neighbour_total")] == 1
        neighbour.stdin.close()
        assert neighbour.wait() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"kept.txt", "lock"}
