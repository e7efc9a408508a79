"""Models in worker processes: the same answers as without, and the truth when a worker ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import socket
import sys
import sysconfig
import tarfile
import threading
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

import mlserver
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.memory import give_back_memory, resident_bytes
from mlserver.parallel.channel import Channel
from tests.running import (
    AsProcess,
    InThread,
    children_of,
    process,
    serving,
    start_process,
    wait_for,
    write_model,
)

MODELS = "tests.server.worker_models"
TIMEOUT = 30.0


def folder_of(path: Path, *names: str, **settings: Any) -> Path:
    for name in names:
        write_model(path, name.lower(), f"{MODELS}.{name}", **settings)
    return path


def request(*values: float, **fields: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [len(values), 1], "datatype": "FP64", "data": list(values)}
    return {"inputs": [tensor], **fields}


def output(reply: Any, name: str = "y") -> list[Any]:
    assert reply.status_code == 200, reply.text
    data: list[Any] = next(o["data"] for o in reply.json()["outputs"] if o["name"] == name)
    return data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InThread]:
    folder = folder_of(tmp_path_factory.mktemp("models"), "Echo", "Moody", "Rowwise", "Talks")
    metrics = tmp_path_factory.mktemp("metrics")
    with serving(folder, parallel_workers=1, metrics_dir=str(metrics)) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: InThread) -> Iterator[Any]:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.server.grpc_port}", options=unlimited) as channel:
        yield GRPCInferenceServiceStub(channel)


def workers_of(server: InThread) -> list[int]:
    """Never 0, which to `kill` is the whole process group of the tests."""
    assert server.server._pools is not None
    slots = [slot for pool in server.server._pools.pools for slot in pool.slots]
    return wait_for(lambda: all(slot.pid for slot in slots) and [slot.pid for slot in slots], "all workers")


# As without workers


def test_calls_are_answered_in_another_process(server: InThread) -> None:
    reply = server.infer("echo", request(1.5, -2.0))
    assert output(reply) == [1.5, -2.0]
    (pid,) = output(reply, "pid")
    assert pid in workers_of(server) and pid != os.getpid()


@pytest.mark.parametrize("elements", [1, 4_000, 1_000_000])
def test_tensors_of_any_size_come_back_as_they_went(server: InThread, stub: Any, elements: int) -> None:
    values = np.random.default_rng(1).standard_normal((elements, 1)).astype("<f4")
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="FP32", shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    for _ in range(3):
        reply = stub.ModelInfer(message, timeout=TIMEOUT)
        assert reply.raw_output_contents[0] == values.tobytes()
    tensor = {"name": "x", "shape": [elements, 1], "datatype": "FP32", "data": values.ravel().tolist()}
    assert output(server.infer("echo", {"inputs": [tensor]})) == tensor["data"]


def test_large_tensors_give_their_memory_back(server: InThread, stub: Any) -> None:
    assert server.server._pools is not None
    (slot,) = server.server._pools.pools[0].slots
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="FP32", shape=[1_000_000, 1])
    message.raw_input_contents.append(bytes(4_000_000))
    for _ in range(400):  # more than there is, both ways
        stub.ModelInfer(message, timeout=TIMEOUT)
    assert slot._worker is not None and slot._worker._arena is not None
    arena = slot._worker._arena

    # What is free again, a worker says in passing.
    wait_for(lambda: server.infer("echo", request(1.0)).ok and arena.in_use <= 2 * 4_194_304, "free memory")


def test_concurrent_callers_get_their_own_rows_whatever_they_speak(server: InThread, stub: Any) -> None:
    def ask(number: int) -> tuple[list[Any], float]:
        values = [float(number), number + 0.5]
        if number % 2:
            reply = server.infer("rowwise", request(*values))
            return output(reply), max(output(reply, "rows"))
        message = pb.ModelInferRequest(model_name="rowwise")
        message.inputs.add(name="x", datatype="FP64", shape=[2, 1])
        message.raw_input_contents.append(np.array(values).tobytes())
        answer = stub.ModelInfer(message, timeout=TIMEOUT)
        raw = answer.raw_output_contents
        return np.frombuffer(raw[0], "<f8").tolist(), float(np.frombuffer(raw[1], "<i8").max())

    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(ask, range(400)))
    assert [reply for reply, _ in replies] == [[2.0 * n, 2.0 * n + 1.0] for n in range(400)]
    assert max(rows for _, rows in replies) > 2  # some shared a batch


def test_one_bad_call_of_a_batch_fails_alone(server: InThread) -> None:
    def ask(number: int) -> int:
        return server.infer("rowwise", request(-5.0 if number == 7 else float(number))).status_code

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(16))) == [422 if number == 7 else 200 for number in range(16)]


def test_errors_are_the_same_as_without_workers(server: InThread, tmp_path: Path) -> None:
    bodies = [
        request(-2.0),
        request(-3.0),
        {"inputs": [{"name": "x", "shape": [3], "datatype": "FP64", "data": [1.0]}]},
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP65", "data": [1.0]}]},
        {"inputs": []},
    ]
    with serving(folder_of(tmp_path, "Moody"), parallel_workers=0) as alone:
        for body in bodies:
            ours, theirs = server.infer("moody", body), alone.infer("moody", body)
            assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
            assert "secret" not in ours.text and "ValueError" not in ours.text


def test_calls_overlap_where_they_await(server: InThread) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: server.infer("moody", request(0.3)).status_code, range(20)))
    assert replies == [200] * 20
    assert time.monotonic() - started < 3.0  # one after another they take six


def test_health_answers_while_a_model_computes(server: InThread) -> None:
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(server.infer, "moody", request(-0.9))
        while not busy.done():
            assert server.get("/v2/health/live").status_code == 200
            assert output(server.infer("echo", request(1.0))) == [1.0]  # another model, in the same worker
        assert busy.result().status_code == 200


def test_metadata_comes_from_the_worker(server: InThread) -> None:
    assert server.get("/v2/models/talks").json()["platform"] == f"pid {workers_of(server)[0]}"


def test_streams(server: InThread, stub: Any) -> None:
    with requests.post(f"{server.url}/v2/models/talks/infer_stream", json=request(2.0), stream=True) as reply:
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line]
    assert [event["outputs"][0]["data"] for event in events] == [[2.0], [2.0]]

    def messages() -> Iterator[pb.ModelInferRequest]:
        for value in (2.0, 1.0):
            message = pb.ModelInferRequest(model_name="talks", id=str(value))
            message.inputs.add(name="x", datatype="FP64", shape=[1, 1])
            message.raw_input_contents.append(np.array([value]).tobytes())
            yield message

    replies = list(stub.ModelStreamInfer(messages(), timeout=TIMEOUT))
    assert len(replies) == 3


def test_a_model_that_is_behind_fills_no_memory(tmp_path: Path) -> None:
    """Requests of its stream wait with the client: beyond a window of them, none is sent."""
    gate, window, many = tmp_path / "gate", 16 * 2**20, 1000
    sent = 0

    def messages() -> Iterator[pb.ModelInferRequest]:
        nonlocal sent
        for _ in range(many):
            message = pb.ModelInferRequest(model_name="behind", id=str(gate))
            message.inputs.add(name="x", datatype="FP64", shape=[10_000, 1])
            message.raw_input_contents.append(bytes(80_000))
            sent += 1
            yield message

    with serving(folder_of(tmp_path, "Behind"), parallel_workers=1) as running:
        (worker,) = workers_of(running)
        before = resident_bytes(worker)
        with grpc.insecure_channel(f"127.0.0.1:{running.server.grpc_port}") as channel:
            replies = GRPCInferenceServiceStub(channel).ModelStreamInfer(messages(), timeout=TIMEOUT)
            next(replies)
            wait_for(lambda: sent == wait_a_moment(lambda: sent), "the client to be held back")
            assert 1 < sent < 2 * window / 80_000
            assert resident_bytes(worker) - before < window
            gate.touch()
            last = next(replies).raw_output_contents[0]
    assert np.frombuffer(last, np.int64).tolist() == [many]


def wait_a_moment(look: Any) -> Any:
    time.sleep(0.3)
    return look()


def test_a_stream_that_fails_says_so_after_what_it_gave(server: InThread) -> None:
    with requests.post(f"{server.url}/v2/models/talks/infer_stream", json=request(3.0), stream=True) as reply:
        events = [json.loads(line[6:]) for line in _lines(reply)]
    assert len(events) == 4 and events[-1] == {"error": "three is enough"}


def _lines(reply: Any) -> Iterator[bytes]:
    try:
        yield from (line for line in reply.iter_lines() if line)
    except requests.RequestException:
        pass  # the body is cut off


def test_a_stream_that_its_client_leaves_is_closed_in_the_worker(server: InThread) -> None:
    before = server.get("/closed").json()
    with requests.post(
        f"{server.url}/v2/models/talks/infer_stream", json=request(1_000_000.0), stream=True
    ) as reply:
        next(reply.iter_lines())
    wait_for(lambda: server.get("/closed").json() > before, "the end of the generator")


def test_custom_handlers_run_in_the_worker(server: InThread) -> None:
    reply = server.post("/talk/joe?loud=yes", ["a", "b"], headers={"x-agent": "me"})
    assert reply.status_code == 200
    expected = {"name": "joe", "words": ["a", "b"], "loud": True, "agent": "me", "pid": workers_of(server)[0]}
    assert reply.json() == expected
    assert server.post("/talk/joe", {"no": "list"}, headers={"x-agent": "me"}).status_code == 422
    assert server.get("/talk/joe").status_code == 405
    failed = server.get("/fail")
    assert (failed.status_code, failed.json()) == (409, {"error": "no"})
    assert server.get("/events").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_custom_metrics_and_queues_are_exposed(tmp_path: Path) -> None:
    folder, metrics = folder_of(tmp_path, "Talks"), tmp_path / "metrics"
    with serving(folder, parallel_workers=1, metrics_dir=str(metrics)) as server:
        for _ in range(3):
            assert server.infer("talks", request(1.0)).ok
        text = server.metrics()
    match = re.search(r'spoken_count\{model_name="talks",model_version=""\} (\S+)', text)
    assert match and float(match[1]) >= 3
    assert re.search(r"parallel_request_queue_count \d", text)
    assert 'model_infer_request_success_total{model="talks",version="None"}' in text


def test_log_lines_carry_the_model(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Talks"), PYTHONPATH=os.getcwd()) as running:
        assert running.infer("talks", request(1.0)).ok
        wait_for(
            lambda: re.search(r"\[mlserver\]\[talks\] INFO - answering in a worker", running.log()), "it"
        )


def test_unload_and_load_again(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Echo"), parallel_workers=2) as running:
        assert running.infer("echo", request(1.0)).ok
        assert running.post("/v2/repository/models/echo/unload").ok
        assert running.infer("echo", request(1.0)).status_code == 404
        assert running.post("/v2/repository/models/echo/load").ok
        pids = set()
        with ThreadPoolExecutor(8) as threads:
            for reply in threads.map(lambda _: running.infer("echo", request(1.0)), range(64)):
                pids.update(output(reply, "pid"))
        assert pids == set(workers_of(running))  # both have it


def test_a_model_that_opts_out_runs_in_the_front(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Echo", parallel_workers=0)
    with serving(folder, parallel_workers=1) as running:
        assert output(running.infer("echo", request(1.0)), "pid") == [os.getpid()]


@pytest.mark.parametrize(("replicas", "copies"), [(1, 1), (3, 3), (None, 2)])
def test_the_number_of_copies_is_what_the_settings_say(
    tmp_path: Path, replicas: int | None, copies: int
) -> None:
    folder = folder_of(tmp_path, "Echo", replicas=replicas)
    with serving(folder, parallel_workers=2) as running:
        loaded = running.server._model_registry.find("echo")
        assert len(loaded.replicas.replicas) == copies
        pids = {pid for _ in range(3) for pid in ask_all(running, "echo")}
        assert len(pids) == copies


def ask_all(running: InThread, model: str) -> set[int]:
    with ThreadPoolExecutor(16) as threads:
        replies = threads.map(lambda _: running.infer(model, request(1.0)), range(64))
        return {pid for reply in replies for pid in output(reply, "pid")}


def test_models_of_one_group_share_a_pool_that_goes_with_the_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, f"{MODELS}.Echo", parameters={"inference_pool_gid": "g"})
    write_model(tmp_path, "c", f"{MODELS}.Echo")
    with serving(tmp_path, parallel_workers=1) as running:
        pids = {name: output(running.infer(name, request(1.0)), "pid")[0] for name in "abc"}
        assert pids["a"] == pids["b"] != pids["c"]
        assert running.post("/v2/repository/models/a/unload").ok
        assert output(running.infer("b", request(1.0)), "pid") == [pids["b"]]
        assert running.post("/v2/repository/models/b/unload").ok
        wait_for(lambda: not exists(pids["b"]), "the end of its process")
        assert output(running.infer("c", request(1.0)), "pid") == [pids["c"]]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# When a worker ends


def test_a_worker_that_is_killed_is_replaced_and_nobody_waits(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Moody"), parallel_workers=1) as running:
        (pid,) = workers_of(running)
        with ThreadPoolExecutor(1) as threads:
            waits = threads.submit(running.infer, "moody", request(0.99))
            wait_for(lambda: running.server._model_registry.find("moody").replicas._in_flight, "the call")
            time.sleep(0.2)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            reply = waits.result(TIMEOUT)
            assert time.monotonic() - killed < 1.0
        assert reply.status_code == 503 and "exit code -9 (SIGKILL)" in reply.json()["error"]
        assert not running.get("/v2/health/ready").ok and not running.get("/v2/models/moody/ready").ok
        assert running.get("/v2/health/live").ok
        # A call that comes meanwhile waits for the next worker, which is on its way.
        assert output(running.infer("moody", request(5.0))) == [5.0]
        assert running.get("/v2/health/ready").ok
        assert workers_of(running) != [pid]


def test_with_two_workers_nobody_notices(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Moody"), parallel_workers=2) as running:
        statuses: list[int] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                statuses.append(running.infer("moody", request(0.01)).status_code)

        with ThreadPoolExecutor(8) as threads:
            loads = [threads.submit(load) for _ in range(8)]
            for _ in range(2):
                time.sleep(0.3)
                os.kill(workers_of(running)[0], signal.SIGKILL)
                replicas = running.server._model_registry.find("moody").replicas
                wait_for(lambda replicas=replicas: not all(r.alive for r in replicas.replicas), "its end")
                wait_for(lambda replicas=replicas: all(r.alive for r in replicas.replicas), "the next")
            over.set()
            for one in loads:
                one.result(TIMEOUT)
        assert len(statuses) > 50 and set(statuses) == {200}


def test_a_call_that_kills_is_tried_twice_and_takes_no_other_along(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Rowwise"), parallel_workers=2) as running:
        reply = running.infer("rowwise", request(-1.0))
        assert reply.status_code == 503 and "SIGKILL" in reply.json()["error"]
        wait_for(lambda: running.get("/v2/health/ready").ok, "both to be back")
        assert output(running.infer("rowwise", request(1.0))) == [2.0]


def test_an_exit_code_is_named(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Moody"), parallel_workers=1) as running:
        reply = running.infer("moody", request(-5.0))
        assert reply.status_code == 503
        assert reply.json()["error"] == "Worker process stopped unexpectedly with exit code 7."


def test_a_predict_that_hangs_is_cut_off_and_its_worker_replaced(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Moody", predict_timeout=0.5)
    with serving(folder, parallel_workers=1) as running:
        started = time.monotonic()
        reply = running.infer("moody", request(-4.0))
        assert time.monotonic() - started < 2.0
        assert reply.status_code == 504 and "predict_timeout" in reply.json()["error"]
        assert output(running.infer("moody", request(2.0))) == [2.0]


def test_loads_that_fail_hurt_nobody(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Echo")
    with serving(folder, parallel_workers=1, load_timeout=3.0) as running:
        (pid,) = workers_of(running)
        folder_of(tmp_path, "FailsToLoad", "ExitsOnLoad", "HangsOnLoad", "NotReady")
        load = "/v2/repository/models/{}/load"
        assert running.post(load.format("failstoload")).status_code == 500
        exits = running.post(load.format("exitsonload"))
        assert exits.status_code == 500 and "exit code 3" in exits.json()["error"]
        hangs = running.post(load.format("hangsonload"))
        assert hangs.status_code == 504 and "load_timeout" in hangs.json()["error"]
        assert output(running.infer("echo", request(1.0)), "pid") == [pid]
        assert running.get("/v2/health/ready").ok
        states = {
            item["name"]: (item["state"], item["reason"])
            for item in running.post("/v2/repository/index").json()
        }
        assert states["failstoload"] == ("UNAVAILABLE", "ValueError: no weights here")
        assert states["echo"][0] == "READY"
        assert running.post(load.format("notready")).ok
        assert running.infer("notready", request(1.0)).status_code == 400
        assert not running.get("/v2/models/notready/ready").ok


@pytest.mark.parametrize(
    ("name", "words"), [("FailsToLoad", "ValueError: no weights here"), ("ExitsOnLoad", "exit code 3")]
)
def test_a_load_that_fails_at_start_ends_the_server(tmp_path: Path, name: str, words: str) -> None:
    child, log = start_process(folder_of(tmp_path, name), PYTHONPATH=os.getcwd())
    assert child.wait(TIMEOUT) == 1

    def told() -> bool:
        return any(line.startswith("Error:") and words in line and name.lower() in line for line in log)

    wait_for(told, f"one line that says {words}")
    assert not children_of(child.pid)


def test_a_load_that_fails_can_be_survived(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Echo", "FailsToLoad")
    with process(folder, ready=False, PYTHONPATH=os.getcwd(), MLSERVER_LOAD_FAILURE="continue") as running:
        wait_for(lambda: running.get("/v2/models/echo/ready").ok, "the other model")
        assert output(running.infer("echo", request(1.0))) == [1.0]
        index = {item["name"]: item for item in running.post("/v2/repository/index").json()}
        assert index["failstoload"]["state"] == "UNAVAILABLE"
        assert index["failstoload"]["reason"] == "ValueError: no weights here"
        assert not running.get("/v2/health/ready").ok


# The beginning

RECORDER = """
import os
with open(os.environ["STARTS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
"""
OWN_REPOSITORY = """
import os
from mlserver.repository import SchemalessModelRepository

os.environ["SET_BY_THE_REPOSITORY"] = "1"

class Repository(SchemalessModelRepository):
    pass
"""


@pytest.mark.parametrize(
    ("settings", "processes", "workers"),
    [
        ({}, 2, 1),
        ({"parallel_workers": 2}, 3, 2),
        ({"parallel_workers": 0}, 1, 0),
        # One begins early, and a worker is to have another environment.
        ({"model_repository_implementation": "own.Repository"}, 3, 1),
    ],
)
def test_a_start_begins_with_its_workers(
    settings: dict[str, Any], processes: int, workers: int, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, "Echo")
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(OWN_REPOSITORY)
    recorder = tmp_path / "recorder"
    recorder.mkdir()
    (recorder / "sitecustomize.py").write_text(RECORDER)
    starts = recorder / "starts"
    with process(folder, PYTHONPATH=f"{recorder}:{os.getcwd()}", STARTS=str(starts)) as running:
        assert output(running.infer("echo", request(1.0))) == [1.0]
        front, *others = map(int, starts.read_text().split())
        assert front == running.process.pid and len(others) == processes - 1
        assert sorted(children_of(front)) == sorted(others[len(others) - workers :])


def test_closed_standard_streams_are_nobodys_sockets(tmp_path: Path) -> None:
    """What a model prints there must not go to the server."""
    command = ("sh", "-c", f'exec {sys.executable} -m mlserver "$@" <&- >&-', "sh")
    folder = folder_of(tmp_path, "Prints")
    # With no output to learn it from, the port has to be known.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child, _ = start_process(folder, command, PYTHONPATH=os.getcwd(), MLSERVER_HTTP_PORT=str(port))
    running = AsProcess("127.0.0.1", port, None, child, [])

    def is_ready() -> bool:
        try:
            return running.get("/v2/health/ready").ok
        except requests.ConnectionError:
            return False

    try:
        wait_for(lambda: child.poll() is not None or is_ready(), "readiness")
        assert output(running.infer("prints", request(1.0))) == [1.0]
        assert running.stop() == 0
    finally:
        child.kill()
        child.wait(TIMEOUT)


def test_a_source_tree_serves_itself(tmp_path: Path) -> None:
    """`python -m mlserver` where the package lies, and is not installed or is another one."""
    shutil.copytree(Path(mlserver.__file__).parent, tmp_path / "src" / "mlserver")
    folder = folder_of(tmp_path, "TellsItsPackage")
    command = ("sh", "-c", f'cd {tmp_path}/src && exec {sys.executable} -m mlserver "$@"', "sh")
    with process(folder, command=command, PYTHONPATH=os.getcwd()) as running:
        text = output(running.infer("tellsitspackage", request(1.0)))
        assert text == [str(tmp_path / "src" / "mlserver" / "__init__.py")]


# The end


def test_a_shutdown_finishes_what_was_accepted(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Moody"), PYTHONPATH=os.getcwd()) as running:
        children = children_of(running.process.pid)
        assert len(children) == 1
        with ThreadPoolExecutor(4) as threads:
            waits = [threads.submit(running.infer, "moody", request(0.9)) for _ in range(3)]
            waits.append(threads.submit(running.infer, "moody", request(-0.9)))
            time.sleep(0.4)
            running.process.send_signal(signal.SIGTERM)
            assert [reply.result(TIMEOUT).status_code for reply in waits] == [200] * 4
        assert running.process.wait(TIMEOUT) == 0
        assert not any(exists(child) for child in children)
        assert "ERROR" not in running.log()


def test_a_front_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Moody"), PYTHONPATH=os.getcwd()) as running:
        (child,) = children_of(running.process.pid)
        with running.connect() as connection:
            body = json.dumps(request(-4.0)).encode()
            head = b"POST /v2/models/moody/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(
                body
            )
            connection.sendall(head + body)
            time.sleep(0.3)  # its worker computes
            running.process.kill()
            running.process.wait(TIMEOUT)
            wait_for(lambda: not exists(child), "its worker to be gone", timeout=2.0)


def test_a_worker_is_one_of_several_signals_of_a_terminal(tmp_path: Path) -> None:
    with process(folder_of(tmp_path, "Echo"), PYTHONPATH=os.getcwd()) as running:
        (child,) = children_of(running.process.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            os.kill(child, number)
        assert output(running.infer("echo", request(1.0)), "pid") == [child]
        assert running.stop(signal.SIGINT) == 0


def test_two_servers_and_their_workers_do_not_mix(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Echo")

    def served() -> Any:
        return process(folder, PYTHONPATH=os.getcwd(), MLSERVER_METRICS_DIR=str(tmp_path / "metrics"))

    with served() as first, served() as second:
        replies: list[AsProcess] = [first, second]
        pids = {output(one.infer("echo", request(1.0)), "pid")[0] for one in replies}
        assert len(pids) == 2


# Warm-up, watching, environments


def test_copies_are_warmed_up_before_they_are_ready(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Moody", warm_up=[request(1.0), request(2.0)])
    with serving(folder, parallel_workers=2) as running:
        assert output(running.infer("moody", request(3.0))) == [3.0]
        assert running.server._model_registry.find("moody").replicas.stages.calls == 5


def test_a_model_that_cannot_warm_up_does_not_load(tmp_path: Path) -> None:
    with serving(folder_of(tmp_path, "Echo"), parallel_workers=1) as running:
        (tmp_path / "warm.json").write_text(json.dumps([request(1.0), request(-3.0)]))
        write_model(tmp_path, "cold", f"{MODELS}.Moody", warm_up="../warm.json")
        reply = running.post("/v2/repository/models/cold/load")
        assert reply.status_code == 500
        assert "warm-up request 1 of model 'cold' was answered with 418" in reply.json()["error"]
        write_model(tmp_path, "cold", f"{MODELS}.Moody", warm_up="nowhere.json")
        reply = running.post("/v2/repository/models/cold/load")
        assert reply.status_code == 422 and "nowhere.json" in reply.json()["error"]
        assert running.infer("cold", request(1.0)).status_code == 404


@pytest.mark.parametrize(("workers", "order"), [(0, -0.9), (1, -4.0)])
def test_a_warm_up_that_hangs_is_given_up(tmp_path: Path, workers: int, order: float) -> None:
    with serving(folder_of(tmp_path, "Echo"), parallel_workers=workers, load_timeout=0.4) as running:
        write_model(tmp_path, "cold", f"{MODELS}.Moody", warm_up=[request(order)])
        reply = running.post("/v2/repository/models/cold/load")
        assert reply.status_code == 504
        assert "warm-up took longer than `load_timeout` (0.4 s)" in reply.json()["error"]
        assert running.infer("cold", request(1.0)).status_code == 404
        wait_for(lambda: running.infer("echo", request(1.0)).ok, "the others to be served again")


def test_what_changes_in_the_repository_is_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Echo")
    with serving(folder, parallel_workers=1, watch_repository=0.1) as running:
        write_model(tmp_path, "late", f"{MODELS}.Moody")
        wait_for(lambda: running.infer("late", request(1.0)).ok, "the new model")
        old = running.server._model_registry.find("late")
        write_model(tmp_path, "late", f"{MODELS}.Moody", platform="changed")
        wait_for(lambda: running.get("/v2/models/late").json()["platform"] == "changed", "the change")
        assert running.server._model_registry.find("late") is not old
        (tmp_path / "late" / "model-settings.json").unlink()
        wait_for(lambda: running.infer("late", request(1.0)).status_code == 404, "the end of it")
        assert running.infer("echo", request(1.0)).ok


def test_what_batches_cost_can_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Rowwise", max_batch_size=8, latency_target_ms=50)
    with serving(folder, parallel_workers=1) as running:
        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(lambda _: running.infer("rowwise", request(1.0)).ok, range(400)))
        told = running.get("/v2/models/rowwise/batching").json()
        assert told["max_calls"] == 8 and told["latency_target_s"] == 0.05 and told["calls"] == 400
        assert told["cost"]["batches_observed"] == told["batches"] < 400
        assert 0.0005 < told["cost"]["per_call_s"] + told["cost"]["per_batch_s"] < 0.5
        assert running.get("/v2/models/nobody/batching").status_code == 404


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with a package of its own, and all of this one."""
    path: Path = tmp_path_factory.mktemp("environment") / "env"
    venv.create(path, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(path), "platbase": str(path)}))
    (packages / "only_there.py").write_text("WORD = 'there'\n")
    (packages / "base.pth").write_text("\n".join(entry for entry in sys.path if os.path.isdir(entry)))
    return path


ABROAD = """
import sys
import numpy as np
import only_there
from mlserver import MLModel, types
from mlserver.codecs import StringCodec

class Abroad(MLModel):
    async def predict(self, payload):
        words = [only_there.WORD, sys.prefix]
        return types.InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("y", words)])
"""


def test_a_model_in_an_environment_of_its_own(tmp_path: Path, environment: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(environment, ".")
    folder = tmp_path / "models"
    parameters: dict[str, dict[str, Any]] = {
        "path": {"environment_path": str(environment)},
        "tarball": {"environment_tarball": "../../packed.tar.gz"},
    }
    for name, values in parameters.items():
        write_model(folder, name, "models.Abroad", ABROAD, parameters=values)
    write_model(folder, "echo", f"{MODELS}.Echo")
    environments = tmp_path / "environments"
    with serving(folder, parallel_workers=1, environments_dir=str(environments)) as running:
        assert output(running.infer("path", request(1.0))) == ["there", str(environment)]
        word, prefix = output(running.infer("tarball", request(1.0)))
        assert word == "there" and Path(prefix).parent == environments
        assert output(running.infer("echo", request(1.0))) == [1.0]
        assert running.post("/v2/repository/models/tarball/unload").ok
        assert not any(environments.iterdir())
        assert environment.exists()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"environment_path": "/nowhere"}, "/nowhere has no bin/python"),
        ({"environment_tarball": "no.tar.gz"}, "there is no `environment_tarball`"),
        ({"environment_tarball": "model-settings.json"}, "cannot be unpacked"),
        ({"build_environment": True}, "needs one of requirements.txt"),
    ],
)
def test_environments_that_cannot_be_used(tmp_path: Path, parameters: dict[str, Any], words: str) -> None:
    with serving(folder_of(tmp_path, "Echo"), parallel_workers=1) as running:
        write_model(tmp_path, "abroad", "models.Abroad", ABROAD, parameters=parameters)
        reply = running.post("/v2/repository/models/abroad/load")
        assert reply.status_code == 422 and words in reply.json()["error"], reply.text
        assert running.infer("echo", request(1.0)).ok


def test_an_environment_is_built_from_what_a_model_says_it_needs(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "only_there").mkdir(parents=True)
    (package / "only_there" / "__init__.py").write_text("WORD = 'built'\n")
    (package / "pyproject.toml").write_text(PACKAGE)
    folder = tmp_path / "models"
    model = write_model(folder, "abroad", "models.Abroad", ABROAD, parameters={"build_environment": True})
    (model / "requirements.txt").write_text(f"# what it needs\n{package}  # from here\n")
    environments = tmp_path / "environments"
    for _ in range(2):  # the second start finds it
        with serving(folder, parallel_workers=1, environments_dir=str(environments)) as running:
            word, prefix = output(running.infer("abroad", request(1.0)))
            assert word == "built" and Path(prefix).parent == environments
        assert len(list(environments.iterdir())) == 1


PACKAGE = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "only-there"
version = "1"
[tool.hatch.build.targets.wheel]
packages = ["only_there"]
"""


HEAVY = """
import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec

class Heavy(MLModel):
    async def load(self):
        self.weights = np.ones(25_000_000)  # 200 MB
        return True

    async def predict(self, payload):
        outputs = [NumpyCodec.encode_output("y", self.weights[:1])]
        return types.InferenceResponse(model_name=self.name, outputs=outputs)
"""


def private_memory(server: InThread) -> int:
    return sum(resident_bytes(pid) for pid in workers_of(server))


@pytest.mark.parametrize("pool", [{}, {"autogenerate_inference_pool_gid": True}])
def test_memory_comes_back_when_a_model_is_unloaded(tmp_path: Path, pool: dict[str, bool]) -> None:
    write_model(tmp_path, "heavy", "models.Heavy", HEAVY, parameters=pool)
    with serving(tmp_path, parallel_workers=1) as running:
        assert private_memory(running) > 200_000_000
        assert running.post("/v2/repository/models/heavy/unload").ok
        wait_for(lambda: private_memory(running) < 150_000_000, "the memory")


def test_models_sleep_when_memory_is_short_and_wake_when_they_are_asked(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_model(tmp_path, name, "models.Heavy", HEAVY, pinned=name == "c")
    with serving(tmp_path, parallel_workers=1, load=False) as running:
        give_back_memory()  # of the tests before, which would count as room
        budget = private_memory(running) + resident_bytes(os.getpid()) + 500_000_000
        running.server._settings.memory_budget = budget
        keeping = asyncio.run_coroutine_threadsafe(running.server._keep_budget(budget), running.loop)
        try:
            for name in ("c", "a", "b"):
                assert running.post(f"/v2/repository/models/{name}/load").ok
                assert output(running.infer(name, request(1.0))) == [1.0]
            sets = {name: running.server._model_registry.find(name).replicas for name in "abc"}
            wait_for(lambda: sets["a"].asleep, "the one that was not asked for longest to sleep")
            assert not sets["b"].asleep and not sets["c"].asleep
            assert running.get("/v2/models/a/ready").ok and running.get("/v2/health/ready").ok
            assert output(running.infer("a", request(1.0))) == [1.0]  # it wakes
            wait_for(lambda: sets["b"].asleep and not sets["a"].asleep, "the other one to sleep")
            assert not sets["c"].asleep
        finally:
            keeping.cancel()


def test_without_shared_memory_large_tensors_take_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlserver.parallel.launch.nameless_file", full)
    with serving(folder_of(tmp_path, "Echo"), parallel_workers=1) as running:
        values = [float(number) for number in range(200_000)]
        assert output(running.infer("echo", request(*values))) == values
    assert "No memory can be shared" in caplog.text


def test_memory_that_runs_full_while_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder_of(tmp_path, "Echo"), parallel_workers=1) as running:
        monkeypatch.setattr("mlserver.parallel.arena.Arena._reserve", lambda *args: False)
        values = [float(number) for number in range(200_000)]
        assert output(running.infer("echo", request(*values))) == values


def test_nobody_looks_at_the_wall_clock() -> None:
    """It jumps. `cloudevents`, logs and file times may tell it, nothing may wait by it."""
    source = Path(mlserver.__file__).parent
    clocks = re.compile(r"\btime\.time\b|from time import .*\btime\b(?! as)|datetime\.now|utcnow")
    found = [path for path in source.rglob("*.py") if clocks.search(path.read_text())]
    assert found == [source / "rest" / "server.py"]  # the `date` header


def test_settings_reach_the_worker_whole(tmp_path: Path) -> None:
    tensor = {
        "name": "x",
        "datatype": "FP64",
        "shape": [-1, 1],
        "parameters": {"content_type": "np", "k": [1]},
    }
    given = {
        "platform": "p",
        "versions": ["a"],
        "inputs": [tensor],
        "outputs": [{**tensor, "name": "y"}],
        "parameters": {"version": "v1", "content_type": "pd", "extra": {"deep": [{"x": None}]}, "own": 5},
    }
    code = """
from mlserver import MLModel, types
from mlserver.codecs import StringCodec

class Tells(MLModel):
    async def predict(self, payload):
        told = self.settings.model_dump_json(by_alias=True)
        return types.InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("y", [told])])
"""
    write_model(tmp_path, "tells", "models.Tells", code, **given)
    told = []
    for workers in (0, 1):
        with serving(tmp_path, parallel_workers=workers) as running:
            told.append(
                (running.get("/v2/models/tells").json(), output(running.infer("tells", request(1.0))))
            )
    assert told[0] == told[1]
    assert told[0][0]["inputs"] == given["inputs"]


# Copy on write


def written_memory(pid: int) -> int:
    """Bytes that a process has for itself, because it wrote to them."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(match) for match in re.findall(r"Private_\w+:\s+(\d+) kB", text)) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_copies_that_were_forked_share_their_weights(tmp_path: Path) -> None:
    write_model(tmp_path, "heavy", "models.Heavy", HEAVY)
    write_model(tmp_path, "moody", f"{MODELS}.Moody")
    taken = {}
    for shared in (False, True):
        with serving(tmp_path, parallel_workers=2, copy_on_write=shared) as running:
            for _ in range(20):
                assert output(running.infer("heavy", request(1.0))) == [1.0]
            pids = workers_of(running)
            taken[shared] = sum(written_memory(pid) for pid in pids)
            if shared:
                # A worker that ends is told as any other, and the next one is forked, too.
                reply = running.infer("moody", request(-5.0))
                assert reply.status_code == 503 and "exit code 7" in reply.json()["error"]
                wait_for(lambda: running.get("/v2/health/ready").ok, "the next ones")
                assert output(running.infer("heavy", request(1.0))) == [1.0]
                assert sum(written_memory(pid) for pid in workers_of(running)) < taken[False] - 300_000_000
                # What is loaded anew is loaded for real.
                assert running.post("/v2/repository/models/heavy/load").ok
                assert output(running.infer("heavy", request(1.0))) == [1.0]
        assert not any(exists(pid) for pid in pids)
    assert taken[True] < taken[False] - 300_000_000


def test_a_model_that_cannot_be_loaded_ahead_fails_as_any_other(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "FailsToLoad")
    child, log = start_process(folder, PYTHONPATH=os.getcwd(), MLSERVER_COPY_ON_WRITE="true")
    assert child.wait(TIMEOUT) == 1
    wait_for(lambda: any("ValueError: no weights here" in line for line in log), "the reason")


# What models and callers do to each other


ODD = """
import asyncio, json, os
import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import MLServerError

class Odd(MLModel):
    rows_independent = True

    async def load(self):
        self.unloads = os.environ.get("UNLOADS")
        return True

    async def predict(self, payload):
        order = NumpyCodec.decode_input(payload.inputs[0]).flat[0]
        headers = {}
        if order == 1:
            raise MLServerError("cannot read \\udcff.bin", 409)
        if order == 2:
            raise KeyboardInterrupt
        if order == 3:
            headers = {"x-odd": "\\udcff"}
        if order == 4:
            self.ready = False
            asyncio.get_running_loop().call_later(0.3, self.recover)
        outputs = [NumpyCodec.encode_output("y", np.full((payload.inputs[0].shape[0], 1), order))]
        parameters = types.Parameters(headers=headers) if headers else None
        return types.InferenceResponse(model_name=self.name, outputs=outputs, parameters=parameters)

    def recover(self):
        self.ready = True
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_a_model_raises_or_returns_its_callers_are_answered(tmp_path: Path, workers: int) -> None:
    write_model(tmp_path, "odd", "models.Odd", ODD)
    with serving(tmp_path, parallel_workers=workers) as running:
        for order, status in ((1.0, 409), (2.0, 500), (3.0, 500), (5.0, 200)):
            assert running.infer("odd", request(order)).status_code == status, order
        assert running.infer("odd", request(1.0)).json() == {"error": "cannot read ?.bin"}
        assert running.infer("odd", request(4.0)).status_code == 200
        wait_for(lambda: running.infer("odd", request(5.0)).ok, "the model to be ready again")


def test_everybody_s_headers_are_his_own_however_many_there_are(tmp_path: Path) -> None:
    code = """
from mlserver import MLModel, types
from mlserver.codecs import StringCodec

class Who(MLModel):
    async def predict(self, payload):
        who = payload.parameters.headers["x-who"]
        return types.InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("y", [who])])
"""
    write_model(tmp_path, "who", "models.Who", code, max_batch_size=64, max_batch_time=0.01)
    with serving(tmp_path, parallel_workers=1) as running:

        def ask(number: int) -> bool:
            return output(running.infer("who", request(1.0), headers={"x-who": str(number)})) == [str(number)]

        with ThreadPoolExecutor(24) as threads:
            assert all(threads.map(ask, range(2_500)))


def test_headers_are_numbered_anew_between_frames_only() -> None:
    async def numbers() -> list[int]:
        channel = Channel(None, None, lambda *frame: None, lambda: None)
        given = []
        for size in (600, 400, 100, 1):
            channel.make_room(size)
            frame = [channel.number_of({"x": str(n)}) for n in range(size)]
            assert len(set(frame)) == size
            given.append(max(frame))
        return given

    assert asyncio.run(numbers()) == [599, 999, 99, 100]


def test_handlers_and_streams_are_spread_over_workers(tmp_path: Path) -> None:
    code = """
import asyncio, os
from mlserver import MLModel
from mlserver.handlers import custom_handler

class Where(MLModel):
    @custom_handler(rest_path="/where", rest_method="GET")
    async def where(self) -> int:
        await asyncio.sleep(0.3)
        return os.getpid()
"""
    write_model(tmp_path, "where", "models.Where", code)
    with serving(tmp_path, parallel_workers=2) as running, ThreadPoolExecutor(8) as threads:
        pids = [reply.json() for reply in threads.map(lambda _: running.get("/where"), range(8))]
        assert sorted(pids.count(pid) for pid in workers_of(running)) == [4, 4]


def test_models_with_one_replica_each_are_spread_over_workers(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, f"{MODELS}.Echo", replicas=1)
    write_model(tmp_path, "many", f"{MODELS}.Echo", replicas=3)
    with serving(tmp_path, parallel_workers=2) as running:
        pids = {output(running.infer(name, request(1.0)), "pid")[0] for name in ("a", "b")}
        assert len(pids) == 2
        added = set(workers_of(running)) - set(workers_of(running)[:2])
        assert running.post("/v2/repository/models/many/unload").ok
        wait_for(lambda: not any(exists(pid) for pid in added), "the worker that it had added to end")


def test_a_load_that_fails_does_not_close_the_pool_under_another(tmp_path: Path) -> None:
    slow = "import time\nfrom mlserver import MLModel\n\nclass Slow(MLModel):\n    async def load(self):\n"
    group = {"inference_pool_gid": "g"}
    write_model(
        tmp_path,
        "good",
        "models.Slow",
        f"{slow}        time.sleep(1)\n        return True\n",
        parameters=group,
    )
    write_model(tmp_path, "bad", f"{MODELS}.FailsToLoad", parameters=group)
    with process(tmp_path, ready=False, MLSERVER_LOAD_FAILURE="continue", PYTHONPATH=os.getcwd()) as running:
        wait_for(lambda: running.get("/v2/models/good/ready").ok, "the other model")


def test_a_load_that_took_too_long_leaves_no_copy_behind(tmp_path: Path) -> None:
    log = tmp_path / "unloads"
    code = f"""
import time
from mlserver import MLModel

class Slow(MLModel):
    async def load(self):
        time.sleep(1.5)
        return True

    async def unload(self):
        open({str(log)!r}, "a").write("x")
        return True
"""
    with serving(tmp_path, parallel_workers=1, load=False, load_timeout=0.5) as running:
        write_model(tmp_path, "slow", "models.Slow", code)
        assert running.post("/v2/repository/models/slow/load").status_code == 504
        wait_for(lambda: log.exists() and log.read_text() == "x", "its copy to be unloaded")


def test_time_starts_when_a_call_does(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Moody", predict_timeout=1.0)
    with serving(folder, parallel_workers=1) as running:
        for _ in range(150):  # quick ones, so that work is given ahead
            assert running.infer("moody", request(1.0)).ok
        with ThreadPoolExecutor(2) as threads:
            replies = list(threads.map(lambda _: running.infer("moody", request(-0.7)), range(2)))
        assert [reply.status_code for reply in replies] == [200, 200]


def test_large_items_of_a_stream_that_its_client_left_are_let_go(tmp_path: Path) -> None:
    code = """
import asyncio
import numpy as np
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec

class Large(MLModel):
    async def predict_stream(self, payloads):
        async for payload in payloads:
            for _ in range(100):
                outputs = [NumpyCodec.encode_output("y", np.ones(100_000))]
                yield types.InferenceResponse(model_name=self.name, outputs=outputs)
                await asyncio.sleep(0)

    async def predict(self, payload):
        from mlserver.parallel import arena
        import gc
        used = [a.in_use for a in gc.get_objects() if isinstance(a, arena.Arena)]
        gc.unfreeze()
        used = used or [a.in_use for a in gc.get_objects() if isinstance(a, arena.Arena)]
        return types.InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("y", np.array(used))]
        )
"""
    write_model(tmp_path, "large", "models.Large", code)
    with serving(tmp_path, parallel_workers=1) as running:
        url = f"{running.url}/v2/models/large/infer_stream"
        for _ in range(5):
            with requests.post(url, json=request(1.0), stream=True) as reply:
                next(reply.iter_lines())

        def free() -> bool:
            gc.collect()  # of this process: the last item of each stream may be part of a cycle
            return sum(output(running.infer("large", request(1.0)))) == 0

        wait_for(free, "all blocks to be free")


def test_a_dead_worker_leaves_no_memory_in_the_front(tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:mlserver")

    with serving(folder_of(tmp_path, "Echo"), parallel_workers=1) as running:
        before = mapped()
        for _ in range(2):
            os.kill(workers_of(running)[0], signal.SIGKILL)
            wait_for(lambda: not running.get("/v2/health/ready").ok, "its end")
            wait_for(lambda: running.get("/v2/health/ready").ok, "the next")
            assert output(running.infer("echo", request(1.0))) == [1.0]
        wait_for(lambda: mapped() <= before, "its memory to be gone")
