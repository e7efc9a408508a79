"""What operators fear, done to a server under load: minutes, not seconds. `make test-faults`.

Each test asks the same three things while it does its worst: does `/v2/health/live` answer at once, does
every caller get an answer in time, and is everything back to rest afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.running import AsProcess, process, wait_for, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODELS = "tests.server.worker_models"
ENVIRONMENT = {"PYTHONPATH": os.getcwd()}
# Seconds: what a caller may wait beyond what it asked for.
PATIENCE = 1.0


@contextmanager
def served(folder: Path, models: dict[str, dict[str, Any]], **environment: str) -> Iterator[AsProcess]:
    for name, settings in models.items():
        settings = dict(settings)
        write_model(folder, name, f"{MODELS}.{settings.pop('cls', 'Moody')}", **settings)
    with process(folder, **{**ENVIRONMENT, **environment}) as running:
        yield running


def body_of(*values: float) -> bytes:
    tensor = {"name": "x", "shape": [len(values), 1], "datatype": "FP64", "data": list(values)}
    return json.dumps({"inputs": [tensor]}).encode()


class Liveness:
    """Asks whether the server lives, every 20 ms, and notes how long it took to say so."""

    def __init__(self, server: AsProcess) -> None:
        self._url = f"{server.url}/v2/health/live"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def _ask(self) -> None:
        with requests.Session() as session:
            while not self._over.wait(0.02):
                started = time.perf_counter()
                try:
                    ok = session.get(self._url, timeout=5).ok
                except requests.RequestException as exc:
                    self.failures.append(repr(exc))
                    continue
                self.seconds.append(time.perf_counter() - started)
                if not ok:
                    self.failures.append("not live")

    def __enter__(self) -> Liveness:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        assert not self.failures, self.failures[:3]
        assert len(self.seconds) > 10
        # The 99th percentile; the callers of this test share the machine's two processors with the server.
        assert statistics.quantiles(self.seconds, n=100)[98] < 0.1, sorted(self.seconds)[-5:]


class Callers:
    """Callers that ask again and again, each on a connection of its own; what they got, and how late."""

    def __init__(
        self, server: AsProcess, model: str, count: int, *values: float, timeout: float = 30.0
    ) -> None:
        self._url = f"{server.url}/v2/models/{model}/infer"
        self._body = body_of(*(values or (1.0,)))
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        self._timeout = timeout
        self.statuses: Counter[int | str] = Counter()
        self.texts: Counter[str] = Counter()
        self.retry_after: set[str | None] = set()
        self.slowest = 0.0

    def _call(self) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                started = time.perf_counter()
                try:
                    reply = session.post(self._url, data=self._body, timeout=self._timeout)
                except requests.RequestException as exc:
                    self.statuses[type(exc).__name__] += 1
                    continue
                self.slowest = max(self.slowest, time.perf_counter() - started)
                self.statuses[reply.status_code] += 1
                if not reply.ok:
                    self.texts[reply.text] += 1
                if reply.status_code in (429, 503):
                    self.retry_after.add(reply.headers.get("retry-after"))
                    time.sleep(0.02)  # they share the machine with the server

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def children_of(pid: int) -> list[int]:
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return [int(line) for line in found.stdout.split()]


def worker_of(server: AsProcess) -> int:
    return int(wait_for(lambda: children_of(server.process.pid), "a worker")[0])


def ready(server: AsProcess) -> None:
    wait_for(lambda: server.get("/v2/health/ready").ok, "readiness")


def resident(pid: int) -> int:
    """Bytes."""
    with open(f"/proc/{pid}/status") as file:
        match = re.search(r"VmRSS:\s+(\d+) kB", file.read())
    assert match
    return int(match[1]) * 1024


def infer(server: AsProcess, *values: float, model: str = "moody") -> requests.Response:
    return requests.post(f"{server.url}/v2/models/{model}/infer", data=body_of(*values), timeout=30)


# Workers that end


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_a_worker_under_load(tmp_path: Path, workers: int) -> None:
    with served(tmp_path, {"moody": {}}, MLSERVER_PARALLEL_WORKERS=str(workers)) as server:
        with Liveness(server) as liveness, Callers(server, "moody", 8, 0.005) as callers:
            for _ in range(3):
                time.sleep(1.5)
                os.kill(worker_of(server), signal.SIGKILL)
                time.sleep(0.1)
                ready(server)
        liveness.check()
        assert callers.slowest < 10 and callers.statuses[200] > 100
        if workers == 2:
            assert set(callers.statuses) == {200}
        else:
            assert set(callers.statuses) <= {200, 503}
            assert all("SIGKILL" in text or "no worker" in text for text in callers.texts), callers.texts


def test_a_worker_that_runs_out_of_memory(tmp_path: Path) -> None:
    write_model(tmp_path, "greedy", "models.Greedy", GREEDY)
    write_model(tmp_path, "moody", f"{MODELS}.Moody")
    with process(tmp_path, **ENVIRONMENT) as server, Liveness(server) as liveness:
        reply = infer(server, 1.0, model="greedy")
        assert reply.status_code in (500, 503), reply.text
        ready(server)
        assert infer(server, 1.0).status_code == 200
        liveness.check()


GREEDY = """
import resource
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec

class Greedy(MLModel):
    async def predict(self, payload):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, used + 4 * 2**30))
        held = []
        while True:
            held.append(bytearray(256 * 2**20))
"""


SEGFAULT = """
import ctypes
from mlserver import MLModel

class Segfaults(MLModel):
    async def predict(self, payload):
        ctypes.string_at(0)
"""


def test_a_predict_that_segfaults(tmp_path: Path) -> None:
    write_model(tmp_path, "bad", "models.Segfaults", SEGFAULT)
    write_model(tmp_path, "moody", f"{MODELS}.Moody")
    with process(tmp_path, **ENVIRONMENT) as server, Liveness(server) as liveness:
        for _ in range(2):
            reply = infer(server, 1.0, model="bad")
            assert reply.status_code == 503 and "SIGSEGV" in reply.text
            ready(server)
        assert infer(server, 1.0).status_code == 200
        liveness.check()


def test_predicts_that_loop_for_ever_as_many_as_there_are_workers(tmp_path: Path) -> None:
    models = {"moody": {"predict_timeout": 1.0}}
    with served(tmp_path, models, MLSERVER_PARALLEL_WORKERS="2") as server, Liveness(server) as liveness:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(infer(server, -4.0).status_code))
            for _ in range(2)
        ]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [504, 504] and time.monotonic() - started < 1.0 + PATIENCE
        assert infer(server, 3.0).status_code == 200
        liveness.check()


ODD = """
import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec

class Odd(MLModel):
    rows_independent = True

    async def predict(self, payload):
        values = NumpyCodec.decode_input(payload.inputs[0])
        what = values.flat[0]
        if what == 1:
            outputs = [NumpyCodec.encode_output("y", np.zeros((len(values) + 1, 1)))]
        elif what == 2:
            outputs = []
        elif what == 3:
            outputs = [NumpyCodec.encode_output("y", np.full((len(values), 1), np.nan))]
        elif what == 4:
            outputs = [NumpyCodec.encode_output("y", np.zeros((len(values), 12_500_000)))]
        else:
            outputs = [NumpyCodec.encode_output("y", values)]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)
"""


def test_answers_of_every_odd_kind(tmp_path: Path) -> None:
    write_model(tmp_path, "odd", "models.Odd", ODD)
    write_model(tmp_path, "moody", f"{MODELS}.Moody")
    with process(tmp_path, **ENVIRONMENT) as server, Liveness(server) as liveness:
        grpc_options = [("grpc.max_receive_message_length", -1)]
        with Callers(server, "moody", 4, 9.0) as callers:
            assert infer(server, 2.0, model="odd").json()["outputs"] == []
            nan = infer(server, 3.0, model="odd")
            assert nan.json()["outputs"][0]["data"] == [None]
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=grpc_options) as channel:
                message = pb.ModelInferRequest(model_name="odd")
                message.inputs.add(name="x", datatype="FP64", shape=[1, 1])
                message.raw_input_contents.append(np.array([4.0]).tobytes())
                large = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
                assert len(large.raw_output_contents[0]) == 100_000_000
            # Alone that is what the model says; of a batch nobody could say whose rows they are.
            assert len(infer(server, 1.0, model="odd").json()["outputs"][0]["data"]) == 2
            together = Callers(server, "odd", 8, 1.0)
            with together:
                time.sleep(1)
            assert set(together.statuses) <= {200, 500}
            assert all("rows" in text for text in together.texts), together.texts
        assert set(callers.statuses) == {200}, callers.texts
        liveness.check()


# Callers


def test_a_hundred_thousand_callers_who_leave(tmp_path: Path) -> None:
    with (
        served(tmp_path, {"moody": {}, "rowwise": {"cls": "Rowwise"}}) as server,
        Liveness(server) as liveness,
    ):
        for _ in range(20):
            infer(server, 1.0)
        worker = worker_of(server)
        before = resident(server.process.pid), resident(worker)
        asyncio.run(_come_and_go(server, 100_000))
        assert infer(server, 1.0).status_code == 200
        wait_for(
            lambda: (
                'rest_server_requests_in_progress{app_name="mlserver",method="POST"} 0.0' in server.metrics()
            ),
            "rest",
        )
        after = resident(server.process.pid), resident(worker)
        liveness.check()
        assert after[0] < before[0] * 1.3 and after[1] < before[1] * 1.3, (before, after)
        assert " ERROR " not in server.log(), server.log()[-2000:]


async def _come_and_go(server: AsProcess, count: int) -> None:
    """REST callers that close and gRPC callers that cancel, at random moments."""
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    rng = random.Random(1)
    left = count
    head = b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"

    async def over_rest() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            model, body = rng.choice(((b"moody", body_of(0.003)), (b"rowwise", body_of(2.0))))
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write((head % (model, len(body)) + body)[: rng.choice((None, 40, 120))])
            await asyncio.sleep(rng.random() * 0.004)
            if rng.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()

    async def over_grpc(stub: Any) -> None:
        nonlocal left
        message = pb.ModelInferRequest(model_name="moody")
        message.inputs.add(name="x", datatype="FP64", shape=[1, 1])
        message.raw_input_contents.append(np.array([0.003]).tobytes())
        while left > 0:
            left -= 1
            call = stub.ModelInfer(message, timeout=rng.choice((None, 0.001, 0.002)))
            await asyncio.sleep(rng.random() * 0.004)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        await asyncio.gather(*(over_rest() for _ in range(16)), *(over_grpc(stub) for _ in range(16)))


def test_ten_times_the_capacity(tmp_path: Path) -> None:
    models = {"slow": {"max_queue_size": 16}, "quick": {}}
    with (
        served(tmp_path, models) as server,
        Liveness(server) as liveness,
        Callers(server, "slow", 40, -0.02) as many,
        Callers(server, "quick", 1, 1.0) as other,
    ):
        time.sleep(60)
    liveness.check()
    assert set(many.statuses) == {200, 429}, many.statuses
    assert many.statuses[200] > 60 / 0.02 / 4
    assert many.retry_after <= {str(n) for n in range(1, 10)}
    assert many.slowest < 16 * 0.02 * 5 + PATIENCE
    assert set(other.statuses) == {200} and other.slowest < 1.0


# Lifecycle


def test_terminate_under_load(tmp_path: Path) -> None:
    with served(tmp_path, {"moody": {}}) as server:
        children = children_of(server.process.pid)
        with Callers(server, "moody", 16, 0.05) as callers:
            time.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
        # What was accepted was answered; what came later found nobody, or a connection that was closing.
        assert {status for status in callers.statuses if isinstance(status, int)} == {200}, callers.texts
        assert not any(os.path.exists(f"/proc/{child}") for child in children)


def test_reload_under_load_two_hundred_times(tmp_path: Path) -> None:
    with served(tmp_path, {"moody": {}}, MLSERVER_TRIAL_LOAD="false") as server:
        with Liveness(server) as liveness, Callers(server, "moody", 8, 0.002) as callers:
            for _ in range(200):
                assert server.post("/v2/repository/models/moody/load").ok
        liveness.check()
        assert set(callers.statuses) == {200}, callers.texts


def test_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """PID 1 has no default action for signals, and inherits what its children leave."""
    if subprocess.run(["unshare", "--fork", "--pid", "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of process ids here")
    write_model(tmp_path, "moody", f"{MODELS}.Moody")
    ports = {f"MLSERVER_{name}_PORT": "0" for name in ("HTTP", "GRPC", "METRICS")}
    inside = [sys.executable, "-m", "mlserver", "start", str(tmp_path)]
    command = ["unshare", "--fork", "--pid", "--kill-child", *inside]
    environment = {**os.environ, **ENVIRONMENT, **ports, "MLSERVER_HOST": "127.0.0.1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as outer:
        assert outer.stdout is not None
        for line in outer.stdout:
            if "Loaded model" in line:
                break
        (first,) = children_of(outer.pid)
        os.kill(first, signal.SIGTERM)
        assert outer.wait(30) == 0


def test_a_full_disk_for_logs(tmp_path: Path) -> None:
    write_model(tmp_path, "moody", f"{MODELS}.Moody")
    (tmp_path / "settings.json").write_text(json.dumps({"logging_settings": LOG_TO_FULL}))
    with process(tmp_path, **ENVIRONMENT) as server, Liveness(server) as liveness:
        for value in (1.0, -2.0, 1.0):
            assert infer(server, value).status_code == (500 if value < 0 else 200)
        time.sleep(0.5)
        liveness.check()


LOG_TO_FULL = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "full": {"class": "logging.FileHandler", "filename": "/dev/full"},
        "stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
    },
    "loggers": {"mlserver": {"level": "INFO", "handlers": ["full", "stdout"]}},
}


# Memory


def test_a_million_calls_leave_no_trace(tmp_path: Path) -> None:
    write_model(tmp_path, "rowwise", f"{MODELS}.Rowwise")
    with process(tmp_path, **ENVIRONMENT) as server:
        worker = worker_of(server)
        asyncio.run(_many_calls(server, 100_000))
        before = resident(server.process.pid), resident(worker)
        asyncio.run(_many_calls(server, 1_000_000))
        after = resident(server.process.pid), resident(worker)
    assert after[0] < before[0] * 1.02 and after[1] < before[1] * 1.02, (before, after)


async def _many_calls(server: AsProcess, count: int) -> None:
    """Pipelined, so that asking costs less than answering."""
    body = body_of(1.0)
    call = b"POST /v2/models/rowwise/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    connections, deep = 100, 20

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for _ in range(count // connections // deep):
            writer.write(call * deep)
            for _ in range(deep):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                match = re.search(rb"content-length: (\d+)", head)
                assert match
                await reader.readexactly(int(match[1]))
        writer.close()

    await asyncio.gather(*(caller() for _ in range(connections)))
