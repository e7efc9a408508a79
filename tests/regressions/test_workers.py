"""Faults that users of servers like this one met with worker processes, batches and loads."""
# ruff: noqa: N802 - functions are named after the ids of the faults

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from tests.running import process, serving, start_process, wait_for, write_model
from tests.server.test_workers import folder_of, output, request, workers_of

ENVIRONMENT = {"PYTHONPATH": os.getcwd()}
WAIT = 30.0


def test_R01_a_killed_worker_is_told_at_once_and_replaced(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Moody"), parallel_workers=1) as server:
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(server.infer, "moody", request(0.99))
            wait_for(lambda: server.server._model_registry.find("moody").replicas._in_flight, "the call")
            time.sleep(0.1)
            os.kill(workers_of(server)[0], signal.SIGKILL)
            killed = time.monotonic()
            reply = call.result(WAIT)
            assert time.monotonic() - killed < 1.0
        assert reply.status_code == 503 and "-9" in reply.json()["error"]
        statuses = []
        while not (ready := server.get("/v2/health/ready")).ok:
            statuses.append(ready.status_code)
            time.sleep(0.02)
        assert statuses and set(statuses) == {400}
        assert server.infer("moody", request(1.0)).status_code == 200


async def test_R02_deadlines_shorter_than_predict_in_a_worker(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Moody"), **ENVIRONMENT) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub: Any = GRPCInferenceServiceStub(channel)

            async def ask(seconds: float, timeout: float, value: float = 0.0) -> float | None:
                message = pb.ModelInferRequest(model_name="moody")
                message.inputs.add(name="x", datatype="FP64", shape=[2, 1])
                message.raw_input_contents.append(np.array([seconds, value]).tobytes())
                try:
                    reply = await stub.ModelInfer(message, timeout=timeout)
                except grpc.aio.AioRpcError as exc:
                    assert exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    return None
                return float(np.frombuffer(reply.raw_output_contents[0])[1])

            late = [ask(0.5, 0.1) for _ in range(25)]
            others = [ask(0.5, WAIT, float(number)) for number in range(25)]
            replies = await asyncio.gather(*late, *others)
            assert replies == [None] * 25 + [float(number) for number in range(25)]
            for start in range(0, 1000, 50):
                batch = [ask(1.0, WAIT, float(start + number)) for number in range(50)]
                assert await asyncio.gather(*batch) == [float(start + number) for number in range(50)]
        assert " ERROR " not in server.log()


def test_R04_a_payload_that_never_ends_is_cut_off_in_every_worker(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Moody", predict_timeout=0.5)
    with serving(folder, parallel_workers=2) as server:
        with ThreadPoolExecutor(2) as threads:
            replies = list(threads.map(lambda _: server.infer("moody", request(-4.0)), range(2)))
        assert [reply.status_code for reply in replies] == [504, 504]
        assert server.infer("moody", request(1.0)).status_code == 200


def test_R05_excess_is_refused_and_others_are_left_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Echo")
    folder_of(tmp_path, "Moody", max_queue_size=4)
    with serving(folder, parallel_workers=1) as server, ThreadPoolExecutor(50) as threads:
        calls = [threads.submit(server.infer, "moody", request(-0.4)) for _ in range(50)]
        wait_for(lambda: sum(call.done() for call in calls) >= 40, "refusals", timeout=2.0)
        slowest = 0.0
        for _ in range(20):
            started = time.monotonic()
            assert server.get("/v2/health/live").ok
            assert output(server.infer("echo", request(1.0))) == [1.0]
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1.0  # far below what the other model takes for its queue
        replies = [call.result(WAIT) for call in calls]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(refused) >= 40 and {reply.status_code for reply in replies} == {200, 429}
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)


@pytest.mark.parametrize("workers", [0, 1])
def test_R06_liveness_while_predict_blocks(tmp_path: Path, workers: int) -> None:
    with serving(folder_of(tmp_path, "Moody"), parallel_workers=workers) as server:
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(server.infer, "moody", request(-0.5)) for _ in range(4)]
            while not all(call.done() for call in calls):
                started = time.monotonic()
                assert server.get("/v2/health/live").ok
                assert time.monotonic() - started < 0.45  # it did not wait for a predict
        assert [call.result().status_code for call in calls] == [200] * 4


def test_R08_there_are_as_many_copies_as_the_settings_say(tmp_path: Path) -> None:
    counts = {"a": 1, "b": 2, "c": 3}
    for name, replicas in counts.items():
        code = LOADS.format(log=str(tmp_path / "loads"))
        write_model(tmp_path, name, "models.Loads", code, replicas=replicas)
    with serving(tmp_path, parallel_workers=3) as server:
        loads = [line.split() for line in (tmp_path / "loads").read_text().splitlines()]
        assert sorted(name for name, _ in loads) == ["a", "b", "b", "c", "c", "c"]
        assert {pid for _, pid in loads} <= {str(pid) for pid in workers_of(server)}


LOADS = """
import os
from mlserver import MLModel

class Loads(MLModel):
    async def load(self):
        with open("{log}", "a") as file:
            file.write(f"{{self.name}} {{os.getpid()}}\\n")
        return True
"""


@pytest.mark.parametrize(("workers", "loads"), [("0", 1), ("1", 1), ("2", 2)])
def test_R13_one_load_for_each_replica(tmp_path: Path, workers: str, loads: int) -> None:
    write_model(tmp_path, "m", "models.Loads", LOADS.format(log=str(tmp_path / "loads")))
    with process(tmp_path, MLSERVER_PARALLEL_WORKERS=workers):
        assert len((tmp_path / "loads").read_text().splitlines()) == loads


NEEDS = """
import os, urllib.request
from mlserver import MLModel

class Needs(MLModel):
    async def load(self):
        ready = f"http://127.0.0.1:{os.environ['MLSERVER_HTTP_PORT']}/v2/models/first/ready"
        return urllib.request.urlopen(ready).status == 200
"""


def test_R14_a_model_that_asks_another_one_while_it_loads(tmp_path: Path) -> None:
    from tests.server.test_start_errors import free_port

    port = free_port()
    write_model(tmp_path, "second", "models.Needs", NEEDS, load_after=["first"])
    folder_of(tmp_path, "Echo")
    write_model(tmp_path, "first", "tests.server.worker_models.Echo")
    with process(tmp_path, MLSERVER_HTTP_PORT=str(port), **ENVIRONMENT) as server:
        assert server.get("/v2/models/second/ready").ok


@pytest.mark.parametrize(
    ("after", "words"), [(["b"], "a -> b -> a"), (["nobody"], "names 'nobody', which is not there")]
)
def test_R14_an_order_that_cannot_be(tmp_path: Path, after: list[str], words: str) -> None:
    write_model(tmp_path, "a", "tests.server.worker_models.Echo", load_after=after)
    write_model(tmp_path, "b", "tests.server.worker_models.Echo", load_after=["a"])
    child, log = start_process(tmp_path, **ENVIRONMENT)
    assert child.wait(WAIT) == 1
    wait_for(lambda: any(words in line for line in log), words)


def test_R45_custom_endpoints_exist_in_a_pool_of_its_own(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Talks", parameters={"inference_pool_gid": "g"})
    with serving(folder, parallel_workers=1) as server:
        assert server.get("/closed").json() == 0


def test_R75_events_arrive_one_by_one_with_defaults(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Talks"), **ENVIRONMENT) as server:
        arrived = []
        headers = {"accept-encoding": "gzip"}
        body = request(1_000.0)
        with server_stream(server, body, headers) as lines:
            for _ in range(3):
                next(lines)
                arrived.append(time.monotonic())
        assert len(arrived) == 3  # of a thousand, the rest of which was never made


def server_stream(server: Any, body: Any, headers: dict[str, str]) -> Any:
    from contextlib import contextmanager

    import requests

    @contextmanager
    def stream() -> Any:
        url = f"{server.url}/v2/models/talks/infer_stream"
        with requests.post(url, json=body, headers=headers, stream=True, timeout=WAIT) as reply:
            assert reply.ok and "content-encoding" not in reply.headers
            yield (line for line in reply.iter_lines() if line)

    return stream()


def test_C5_workers_outlive_what_they_were_asked(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Moody"), **ENVIRONMENT) as server, ThreadPoolExecutor(1) as threads:
        call = threads.submit(server.infer, "moody", request(-0.9))
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert call.result(WAIT).status_code == 200
        assert server.process.wait(WAIT) == 0


def test_C7_errors_look_alike_in_both_modes_on_custom_endpoints_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Talks", "Moody")
    told = []
    for workers in (0, 1):
        with serving(folder, parallel_workers=workers) as server:
            replies = [
                server.infer("moody", request(-2.0)),
                server.infer("moody", request(-3.0)),
                server.get("/fail"),
                server.post("/talk/x", 5),
            ]
            told.append([(reply.status_code, reply.json()) for reply in replies])
    assert told[0] == told[1]
    assert [status for status, _ in told[0]] == [500, 418, 409, 422]
    assert "ValueError" not in json.dumps(told)


def test_C9_totals_do_not_go_back_when_a_worker_is_killed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Talks")

    def spoken(server: Any) -> float:
        match = re.search(r'spoken_count\{model_name="talks",model_version=""\} (\S+)', server.metrics())
        return float(match[1]) if match else 0.0

    with serving(folder, parallel_workers=1, metrics_dir=str(tmp_path / "metrics")) as server:
        for _ in range(3):
            assert server.infer("talks", request(1.0)).ok
        before = spoken(server)
        os.kill(workers_of(server)[0], signal.SIGKILL)
        wait_for(lambda: not server.get("/v2/health/ready").ok, "its end")
        wait_for(lambda: server.get("/v2/health/ready").ok, "the next one")
        assert server.infer("talks", request(1.0)).ok
        assert before == 3.0 and spoken(server) == 4.0
