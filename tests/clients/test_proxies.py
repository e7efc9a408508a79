"""Proxies in front of the server, with the configuration that docs/grpc.md shows, and clients behind them."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.clients.serving import ROOT, Serving, program, request, serving
from tests.clients.test_libraries import PROTOS, talk, talk_node
from tests.running import wait_for

pytestmark = pytest.mark.clients
Proxy = Callable[[Path, int, int], list[str]]


def snippet(language: str) -> str:
    """The configuration that the documentation shows."""
    text = (ROOT / "docs" / "grpc.md").read_text()
    [found] = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(found)


def nginx(folder: Path, port: int, backend: int) -> list[str]:
    binary = program("nginx", "nginx-light")
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    shown = snippet("nginx").replace("listen 80 ", f"listen 127.0.0.1:{port} ")
    shown = shown.replace("127.0.0.1:8081", f"127.0.0.1:{backend}")
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nerror_log stderr warn;\npid {folder}/pid;\nevents {{}}\n"
        f"http {{\n    access_log off;\n{temporary}{shown}}}\n"
    )
    return [binary, "-c", str(config)]


def haproxy(folder: Path, port: int, backend: int) -> list[str]:
    binary = program("haproxy", "haproxy")
    shown = snippet("haproxy").replace("bind :80 ", f"bind 127.0.0.1:{port} ")
    config = folder / "haproxy.cfg"
    config.write_text(shown.replace("127.0.0.1:8081", f"127.0.0.1:{backend}"))
    return [binary, "-db", "-f", str(config)]


@contextmanager
def running(proxy: Proxy, folder: Path, backend: int) -> Iterator[str]:
    """A proxy in front of a port; its address."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as output:
        child = subprocess.Popen(proxy(folder, port, backend), stdout=output, stderr=output)

    def listens() -> bool:
        assert child.poll() is None, log.read_text()
        with closing(socket.socket()) as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, "the proxy")
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


@pytest.fixture(scope="module", params=[nginx, haproxy], ids=["nginx", "haproxy"])
def behind(request: Any, server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("proxy"), server.port) as target:
        yield target


def test_grpcio(behind: str) -> None:
    talk("grpcio-newest", "talk_grpcio.py", behind, PROTOS)


def test_grpc_js(behind: str) -> None:
    talk_node(behind)


def test_a_call_that_its_client_leaves_is_broken_off(behind: str, server: Serving) -> None:
    """What a proxy does when its client goes has to reach the model, or it works for nobody."""

    def cancelled() -> int:
        pattern = r'^grpc_server_handled_total{.*grpc_code="CANCELLED".*grpc_method="ModelInfer".*} (\S+)$'
        return sum(int(float(n)) for n in re.findall(pattern, server.process.metrics(), re.MULTILINE))

    before = cancelled()
    with grpc.insecure_channel(behind) as channel:
        call = GRPCInferenceServiceStub(channel).ModelInfer.future(request(wait_ms=20_000))
        time.sleep(0.3)
        call.cancel()
    wait_for(lambda: cancelled() == before + 1, "the model to be told", 5)


@pytest.mark.parametrize("proxy", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_connections_that_grow_old_lose_no_call(proxy: Proxy, tmp_path: Path) -> None:
    """Proxies keep connections to the server; the server ends each after half a second, under load."""
    models, folder = tmp_path / "models", tmp_path / "proxy"
    folder.mkdir()
    with (
        serving(models, MLSERVER_GRPC_MAX_CONNECTION_AGE="0.5") as server,
        running(proxy, folder, server.port) as target,
        grpc.insecure_channel(target) as channel,
        ThreadPoolExecutor(8) as pool,
    ):
        stub = GRPCInferenceServiceStub(channel)
        over = threading.Event()

        def ask(_: int) -> int:
            count = 0
            while not over.is_set():
                assert stub.ModelInfer(request(), timeout=10).id == "one"
                count += 1
            return count

        asking = [pool.submit(ask, number) for number in range(8)]
        time.sleep(4)
        over.set()
        assert sum(future.result() for future in asking) > 100
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=10).live
