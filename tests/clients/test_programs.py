"""Programs that speak HTTP/2 or gRPC: they check what they are sent more strictly than most libraries."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mlserver.grpc import dataplane_pb2 as pb
from tests.clients.serving import INFER, Serving, framed, prepared, program, request, run

pytestmark = pytest.mark.clients
HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(framed(request()))
    return path


def test_nghttp(server: Serving, body: Path) -> None:
    nghttp = program("nghttp", "nghttp2-client")
    url = f"http://{server.target}{INFER}"
    command = [nghttp, "-H", ":method: POST", *HEADERS, "-d", str(body), url]
    reply = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    assert reply[:1] == b"\0" and int.from_bytes(reply[1:5], "big") == len(reply) - 5
    response = pb.ModelInferResponse.FromString(reply[5:])
    assert list(response.raw_output_contents) == [bytes(range(16))]

    shown = run(nghttp, "--verbose", "--no-dep", "-H", ":method: POST", *HEADERS, "-d", body, url)
    assert "grpc-status: 0" in shown and "ce-id: one" in shown
    assert "INVALID" not in shown and "RST_STREAM" not in shown, shown
    # With windows of 1 KiB
    assert "grpc-status: 0" in run(
        nghttp, "-v", "-w", "10", "-W", "10", "-H", ":method: POST", *HEADERS, "-d", body, url
    )


@pytest.mark.parametrize("load", [("-c1", "-m1"), ("-c1", "-m100"), ("-c32", "-m4")], ids=" ".join)
def test_h2load(server: Serving, body: Path, load: tuple[str, ...]) -> None:
    h2load = program("h2load", "nghttp2-client")
    before = server.succeeded()
    said = run(h2load, "-t1", *load, "-n3200", "-d", body, *HEADERS, f"http://{server.target}{INFER}")
    assert "3200 succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert server.succeeded() - before == 3200  # h2load itself does not look at grpc-status


@pytest.mark.parametrize(
    ("model", "how"),
    [("echo", []), ("echo", ["--streaming"]), ("counts", ["--streaming"])],
    ids=["unary", "streaming", "many responses"],
)
def test_perf_analyzer(server: Serving, model: str, how: list[str]) -> None:
    analyzer = prepared("perf_analyzer", "perf_analyzer")
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    if "libb64.so" not in found:
        pytest.skip("perf_analyzer needs libb64: apt-get install libb64-0d")
    # Three windows that agree are asked for; how well they do does not matter here.
    load = ["--concurrency-range", "4", "--measurement-mode", "count_windows"]
    window = ["--measurement-request-count", "200", "-r", "6", "-s", "10000"]
    command = [str(analyzer), "-m", model, "-u", server.target, "-i", "grpc", "--shape", "x:4", "-v"]
    said = run(*command, *load, *window, *how, LD_LIBRARY_PATH=str(analyzer.parent))
    throughput = re.search(r"throughput: ([\d.]+) infer/sec", said)
    assert throughput and float(throughput[1]) > 0, said
    latency = re.search(r"[Aa]vg latency: (\d+) usec", said)
    # Replies that are counted twice or not at all make calls pile up, and latencies of seconds.
    assert latency and int(latency[1]) < 1_000_000, said
