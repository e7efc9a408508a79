"""Models that come and go: layouts of a repository, versions, loading and unloading under traffic."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mlserver.server import MLServer
from tests.running import InThread, Served, process, serving, wait_for, write_model
from tests.server.models import body, events, gates

MODELS = "tests.server.models"

# Answers with who it is: the name, the version, and what was written into its module.
WHO = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput

from helper import WHICH

class Who(MLModel):
    async def load(self):
        if WHICH == "broken":
            raise ValueError("cannot read the weights")
        return {"false": False, "none": None}.get(WHICH, True)

    async def predict(self, payload):
        who = [self.name, str(self.version), WHICH]
        outputs = [ResponseOutput(name="who", shape=[3], datatype="BYTES", data=who)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""


def write_who(
    folder: Path, name: str, which: str, version: str | None = None, home: str | None = None
) -> Path:
    settings = {} if version is None else {"parameters": {"version": version}}
    path = write_model(folder, name, "models.Who", WHO, home=home, **settings)
    (path / "helper.py").write_text(f"WHICH = {which!r}\n")
    return path


def who(server: Served, path: str) -> list[str]:
    answer = server.infer(path, body())
    assert answer.status_code == 200, answer.text
    result: list[str] = answer.json()["outputs"][0]["data"]
    return result


def repository(server: Served, name: str, action: str) -> requests.Response:
    return server.post(f"/v2/repository/models/{name}/{action}")


def index(server: Served) -> dict[tuple[str, str | None], dict[str, Any]]:
    items = server.post("/v2/repository/index", {}).json()
    return {(item["name"], item.get("version")): item for item in items}


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[Any]:
    """Run a call in a thread; its result is there when the block has ended."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


# Layouts


def test_a_single_model(tmp_path: Path) -> None:
    write_who(tmp_path, "one", "1", home=".")
    (tmp_path / "settings.json").write_text(json.dumps({"server_name": "from the file"}))
    with process(tmp_path) as server:
        assert who(server, "one") == ["one", "None", "1"]
        assert server.get("/v2").json()["name"] == "from the file"
        assert server.stop() == 0


def test_models_and_versions_side_by_side(tmp_path: Path) -> None:
    write_who(tmp_path, "a", "1")
    write_who(tmp_path, "b", "2")
    for version in ("2", "10"):
        write_who(tmp_path, "c", f"v{version}", version, home=f"c/{version}")
    with serving(tmp_path) as server:
        assert who(server, "a") == ["a", "None", "1"]  # each has its own models.py, and a helper beside it
        assert who(server, "b") == ["b", "None", "2"]
        assert who(server, "c") == who(server, "c/versions/10") == ["c", "10", "v10"]
        assert who(server, "c/versions/2") == ["c", "2", "v2"]
        assert all(item["state"] == "READY" for item in index(server).values())


def test_a_model_that_the_environment_describes(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(WHO.replace("from helper import WHICH", "WHICH = 'env'"))
    described: dict[str, Any] = {
        "MLSERVER_MODEL_IMPLEMENTATION": "models.Who",
        "MLSERVER_MODEL_NAME": "from-env",
    }
    with process(tmp_path, **described) as server:
        assert who(server, "from-env") == ["from-env", "None", "env"]
        assert server.stop() == 0


def test_an_empty_server_that_is_filled_later(tmp_path: Path) -> None:
    with serving(tmp_path, load=False) as server:
        assert server.get("/v2/health/ready").status_code == 200
        assert index(server) == {}
        write_who(tmp_path, "m", "1")
        assert index(server)["m", None]["state"] == "UNAVAILABLE"
        assert server.get("/v2/models/m/ready").status_code == 404
        assert repository(server, "m", "load").status_code == 200
        assert who(server, "m") == ["m", "None", "1"]


# Versions


@pytest.mark.parametrize(
    ("versions", "default"),
    [
        (["2", "10", "9"], "10"),
        (["v3", "v10"], "v3"),
        (["8", "v3", "7"], "v3"),
        (["1", None, "2"], None),
        ([None], None),
    ],
)
def test_the_default_version(tmp_path: Path, versions: list[str | None], default: str | None) -> None:
    for version in versions:
        write_who(tmp_path, "m", "", version, home=f"m/{version}")
    with serving(tmp_path) as server:
        assert who(server, "m")[1] == str(default)
        for version in versions:
            if version is not None:
                assert who(server, f"m/versions/{version}")[1] == version
        assert server.get("/v2/models/m/versions/none/ready").status_code == 404


def test_versions_come_and_go(tmp_path: Path) -> None:
    write_who(tmp_path, "m", "1", "1", home="m/1")
    with serving(tmp_path) as server:
        write_who(tmp_path, "m", "2", "2", home="m/2")
        assert repository(server, "m", "load").status_code == 200
        assert who(server, "m")[1] == "2"
        write_who(tmp_path, "m", "3", home="m/3")  # without a version, beside those that have one
        assert repository(server, "m", "load").status_code == 200
        assert who(server, "m")[1] == "None" and who(server, "m/versions/1")[1] == "1"
        for gone in ("m/3", "m/2"):
            (tmp_path / gone / "model-settings.json").unlink()
        assert repository(server, "m", "load").status_code == 200
        assert who(server, "m")[1] == "1"
        assert server.get("/v2/models/m/versions/2/ready").status_code == 404
        assert list(index(server)) == [("m", "1")]


# Loading


def test_a_reload_brings_what_was_edited(tmp_path: Path) -> None:
    write_who(tmp_path, "m", "1")
    with serving(tmp_path) as server:
        for which in ("2", "3"):
            write_who(tmp_path, "m", which)
            assert repository(server, "m", "load").status_code == 200
            assert who(server, "m") == ["m", "None", which]


def test_a_failed_reload_keeps_what_serves(tmp_path: Path) -> None:
    write_who(tmp_path, "m", "1")
    with serving(tmp_path) as server:
        write_who(tmp_path, "m", "broken")
        for _ in range(2):
            answer = repository(server, "m", "load")
            assert answer.status_code == 500 and answer.json() == {"error": "Internal Server Error"}
            assert who(server, "m") == ["m", "None", "1"]
            assert server.get("/v2/health/ready").status_code == 200
            assert index(server)["m", None]["state"] == "READY"
        write_who(tmp_path, "m", "2")
        assert repository(server, "m", "load").status_code == 200
        assert who(server, "m") == ["m", "None", "2"]


def test_one_version_that_fails_stops_no_other(tmp_path: Path) -> None:
    write_who(tmp_path, "m", "1", "1", home="m/1")
    with serving(tmp_path) as server:
        write_who(tmp_path, "m", "broken", "2", home="m/2")
        write_who(tmp_path, "m", "3", "3", home="m/3")
        assert repository(server, "m", "load").status_code == 500
        assert who(server, "m")[1] == "3" and who(server, "m/versions/1")[1] == "1"
        items = index(server)
        assert [items["m", v]["state"] for v in ("1", "2", "3")] == ["READY", "UNAVAILABLE", "READY"]
        assert "cannot read the weights" in items["m", "2"]["reason"]


@pytest.mark.parametrize("which", ["false", "none"])
def test_a_load_that_does_not_answer_true(tmp_path: Path, which: str) -> None:
    write_who(tmp_path, "other", "1")
    with serving(tmp_path) as server:
        write_who(tmp_path, "m", which)
        answer = repository(server, "m", "load")
        assert (answer.status_code, answer.content) == (200, b"")
        assert server.get("/v2/models/m/ready").status_code == 400
        assert server.get("/v2/health/ready").status_code == 400
        answer = server.infer("m", body())
        assert (answer.status_code, answer.json()) == (400, {"error": "Model m is not ready yet."})
        assert index(server)["m", None]["state"] == "UNKNOWN"
        assert server.get("/v2/models/m").status_code == 200
        assert repository(server, "m", "unload").status_code == 200
        assert server.get("/v2/health/ready").status_code == 200


def test_what_a_load_says_of_its_own_accord_is_told(tmp_path: Path) -> None:
    code = "from mlserver import MLModel\nfrom mlserver.errors import InvalidModelURI\n"
    code += "class M(MLModel):\n    async def load(self):\n        raise InvalidModelURI(self.name, 'x')\n"
    with serving(tmp_path) as server:
        write_model(tmp_path, "m", "models.M", code)
        answer = repository(server, "m", "load")
        assert answer.status_code == 422
        assert answer.json() == {"error": "Invalid URI specified for model m (x)"}
        write_model(tmp_path, "n", "nowhere.M")
        assert repository(server, "n", "load").status_code == 500


def test_a_load_that_ends_the_process_does_not(tmp_path: Path) -> None:
    code = "import sys\nfrom mlserver import MLModel\n"
    code += "class M(MLModel):\n    async def load(self):\n        sys.exit(7)\n"
    with serving(tmp_path) as server:
        write_model(tmp_path, "m", "models.M", code)
        assert repository(server, "m", "load").status_code == 500
        assert "sys.exit(7)" in index(server)["m", None]["reason"]


def test_a_failed_first_load_cleans_up_after_itself(tmp_path: Path) -> None:
    code = f"from mlserver import MLModel\nfrom {MODELS} import events\n"
    code += "class M(MLModel):\n    async def load(self):\n        raise ValueError\n"
    code += "    async def unload(self):\n        events['cleaned'].append(self.name)\n        return True\n"
    with serving(tmp_path) as server:
        write_model(tmp_path, "m", "models.M", code)
        before = threading.active_count()
        assert repository(server, "m", "load").status_code == 500
        assert events["cleaned"] == ["m"]
        assert server.get("/v2/models/m").status_code == 404
        wait_for(lambda: threading.active_count() <= before, "end of its thread")
        # One that failed is no model that is loaded: it can be unloaded, once.
        assert [repository(server, "m", "unload").status_code for _ in range(2)] == [200, 404]


def test_a_model_that_is_loading(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_model(tmp_path, "loading", f"{MODELS}.LoadsSlowly", platform="shown")
        with in_background(lambda: repository(server, "loading", "load")) as load:
            wait_for(lambda: events["loading"], "the load")
            assert server.get("/v2/models/loading/ready").status_code == 400
            assert server.get("/v2/health/ready").status_code == 400
            assert server.get("/v2/models/loading").json()["platform"] == "shown"
            assert server.infer("loading", body()).json() == {"error": "Model loading is not ready yet."}
            assert index(server)["loading", None]["state"] == "LOADING"
            gates["loading"].release()
        assert load.result().status_code == 200
        assert server.infer("loading", body()).status_code == 200


def test_an_unload_while_loading(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_model(tmp_path, "unwanted", f"{MODELS}.LoadsSlowly")
        with in_background(lambda: repository(server, "unwanted", "load")) as load:
            wait_for(lambda: events["unwanted"], "the load")
            assert repository(server, "unwanted", "unload").status_code == 200
            assert server.get("/v2/models/unwanted").status_code == 404
            gates["unwanted"].release()
        assert load.result().status_code == 404
        assert load.result().json() == {"error": "Model unwanted not found"}
        assert events["unwanted"] == ["loading", "unload"]
        assert server.get("/v2/models/unwanted").status_code == 404
        assert server.get("/v2/health/ready").status_code == 200


def test_an_unload_while_reloading(tmp_path: Path) -> None:
    write_model(tmp_path, "again", f"{MODELS}.LoadsSlowly")
    gates["again"].release()
    with serving(tmp_path) as server:
        with in_background(lambda: repository(server, "again", "load")) as load:
            wait_for(lambda: len(events["again"]) == 2, "the second load")
            assert server.infer("again", body()).status_code == 200
            assert repository(server, "again", "unload").status_code == 200
            gates["again"].release()
        assert load.result().status_code == 404
        assert events["again"] == ["loading", "loading", "unload", "unload"]
        assert server.get("/v2/models/again").status_code == 404


def test_many_who_load_the_same_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as server, ThreadPoolExecutor(6) as pool:
        write_who(tmp_path, "m", "1")
        answers = list(pool.map(lambda _: repository(server, "m", "load").status_code, range(12)))
        assert answers == [200] * 12
        assert who(server, "m") == ["m", "None", "1"]


# Under traffic


@contextmanager
def hammered(server: Served, model: str, clients: int = 8) -> Iterator[list[int]]:
    """Clients that call a model over and over; every status they got."""
    statuses: list[int] = []
    stop = threading.Event()

    def client() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(f"{server.url}/v2/models/{model}/infer", json=body(), timeout=30)
                statuses.append(answer.status_code)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(statuses) > clients, "traffic")
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_fifty_reloads_under_traffic_fail_no_request(tmp_path: Path) -> None:
    write_who(tmp_path, "m", "1")
    with serving(tmp_path) as server:
        threads = threading.active_count()
        with hammered(server, "m") as statuses:
            for _ in range(50):
                before = len(statuses)
                assert repository(server, "m", "load").status_code == 200
                assert server.get("/v2/models/m/ready").status_code == 200
                while len(statuses) == before:
                    time.sleep(0.001)
        assert set(statuses) == {200}
        wait_for(lambda: threading.active_count() <= threads, "end of the old copies' threads")


def test_loads_and_unloads_under_traffic_give_clear_answers(tmp_path: Path) -> None:
    write_who(tmp_path, "m", "1")
    with serving(tmp_path) as server, hammered(server, "m") as statuses:
        for _ in range(15):
            assert repository(server, "m", "unload").status_code == 200
            assert repository(server, "m", "load").status_code == 200
        wait_for(lambda: statuses[-1] == 200, "service")
        assert set(statuses) <= {200, 400, 404}  # there, loading, gone


def test_what_was_accepted_is_answered_before_a_model_goes(tmp_path: Path) -> None:
    write_model(tmp_path, "m", f"{MODELS}.Blocks")
    with serving(tmp_path) as server, ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(server.infer, "m", body(id=str(n), parameters={"key": "going"})) for n in range(3)
        ]
        wait_for(lambda: events["going"], "the first call")
        wait_for(lambda: replica_of(server, "m")._in_flight == 3, "all calls")
        unload = pool.submit(repository, server, "m", "unload")
        wait_for(lambda: server.get("/v2/models/m").status_code == 404, "the unload")
        assert not unload.done()
        gates["going"].release(3)
        assert [call.result().json()["id"] for call in calls] == ["0", "1", "2"]
        assert unload.result().status_code == 200


def replica_of(server: InThread, name: str) -> Any:
    return server.server._model_registry.find(name).replicas


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("at_startup", [False, True])
@pytest.mark.parametrize("how", ["unload", "load"])
def test_an_unloaded_model_leaves_memory(tmp_path: Path, cycle: bool, at_startup: bool, how: str) -> None:
    code = WHO.replace("async def load(self):", "async def load(self):\n        CYCLE")
    home = write_who(tmp_path, "m", "1")
    (home / "models.py").write_text(code.replace("CYCLE", "self.me = self" if cycle else "pass"))
    with serving(tmp_path, load=at_startup) as server, requests.Session() as session:
        if not at_startup:
            assert repository(server, "m", "load").status_code == 200
        for _ in range(3):  # over a connection that stays
            assert session.post(f"{server.url}/v2/models/m/infer", json=body(), timeout=10).status_code == 200
        server.post("/v2/models/m/infer_stream", body())
        loaded = server.server._model_registry.find("m")
        model, copy = weakref.ref(loaded.model), weakref.ref(loaded)
        del loaded
        assert repository(server, "m", how).status_code == 200
        assert model() is None
        gc.collect()
        assert copy() is None


def test_a_slow_model_holds_up_no_other(tmp_path: Path) -> None:
    write_model(tmp_path, "slow", f"{MODELS}.Blocks")
    write_model(tmp_path, "fast", f"{MODELS}.Echo")
    with serving(tmp_path) as server, ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(server.infer, "slow", body(parameters={"key": "slow"})) for _ in range(4)]
        wait_for(lambda: events["slow"], "the slow call")
        for _ in range(20):
            assert server.infer("fast", body()).status_code == 200
            assert server.get("/v2/models/slow").status_code == 200
        assert not any(call.done() for call in slow)
        gates["slow"].release(4)
        assert {call.result().status_code for call in slow} == {200}


def test_an_asynchronous_model_answers_many_at_once(tmp_path: Path) -> None:
    write_model(tmp_path, "m", f"{MODELS}.Slow")
    with serving(tmp_path) as server, ThreadPoolExecutor(16) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: server.infer("m", body()).status_code, range(160)))
        assert answers == [200] * 160
        assert time.monotonic() - started < 160 * 0.02  # what they would take one by one


def test_a_model_with_no_room_says_so(tmp_path: Path) -> None:
    write_model(tmp_path, "m", f"{MODELS}.Blocks", max_batch_size=2, max_batch_time=0.01)
    with serving(tmp_path, max_queue_size=3) as server, ThreadPoolExecutor(12) as pool:
        first = pool.submit(server.infer, "m", body(parameters={"key": "full"}))
        wait_for(lambda: events["full"], "the first call")
        others = [pool.submit(server.infer, "m", body(parameters={"key": "full"})) for _ in range(9)]
        wait_for(lambda: sum(call.done() for call in others) == 6, "six refusals")
        refused = [call for call in others if call.done()]
        assert {call.result().status_code for call in refused} == {429}
        assert "requests waiting already" in refused[0].result().json()["error"]
        gates["full"].release(4)
        assert {call.result().status_code for call in {first, *others}.difference(refused)} == {200}


# Clients that leave


def ask(server: Served, model: str, **parameters: Any) -> socket.socket:
    text = json.dumps(body(parameters=parameters, id=parameters.get("id", "a"))).encode()
    connection = server.connect()
    connection.sendall(
        b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
        % (model.encode(), len(text), text)
    )
    return connection


@pytest.mark.parametrize("origin", [None, "https://pages.example"])
def test_a_predict_whose_client_left_is_cancelled(tmp_path: Path, origin: str | None) -> None:
    write_model(tmp_path, "m", f"{MODELS}.WaitsForever")
    key = f"left {origin}"
    cors = None if origin is None else {"allow_origins": [origin], "allow_methods": ["POST"]}
    with serving(tmp_path, cors_settings=cors) as server:
        text = json.dumps(body(parameters={"key": key})).encode()
        with server.connect() as connection:
            connection.sendall(
                b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\norigin: %b\r\ncontent-length: %d\r\n\r\n%b"
                % ((origin or "null").encode(), len(text), text)
            )
            wait_for(lambda: events[key], "the call")
        wait_for(lambda: events[key] == ["begun", "cancelled"], "cancellation")
        wait_for(lambda: not replica_of(server, "m")._in_flight, "the end of it")
        assert repository(server, "m", "unload").status_code == 200  # nothing waits for it


@pytest.mark.parametrize("batching", [False, True])
def test_calls_of_clients_that_left_never_run(tmp_path: Path, batching: bool) -> None:
    settings: dict[str, Any] = {"max_batch_size": 1000, "max_batch_time": 0.001} if batching else {}
    write_model(tmp_path, "m", f"{MODELS}.Blocks", **settings)
    key = f"queue {batching}"
    with serving(tmp_path) as server:
        first = ask(server, "m", key=key, id="first")
        wait_for(lambda: events[key], "the first call")
        replica = replica_of(server, "m")
        leaving = [ask(server, "m", key=key, id=f"leaving {n}") for n in range(5)]
        staying = ask(server, "m", key=key, id="staying")
        wait_for(lambda: replica._in_flight == 7, "the queue")
        for connection in leaving:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # resets
            connection.close()
        assert server.get("/v2/health/live").status_code == 200
        wait_for(lambda: sum(waiting.left for waiting in list(replica._waiting)) == 5, "them to go")
        gates[key].release(7)
        assert b'"id":"first"' in first.recv(65536)
        assert b'"id":"staying"' in staying.recv(65536)
        first.close()
        staying.close()
        wait_for(lambda: not replica._in_flight, "the end of the queue")
        assert events[key] == ["begun first", "ended first", "begun staying", "ended staying"]


# The process


WAITS_FOR_A_FILE = """
import pathlib, time
from mlserver import MLModel

class WaitsForAFile(MLModel):
    async def load(self):
        home = pathlib.Path(self.settings.parameters.uri)
        (home / "begun").touch()
        while not (home / "go").exists():
            time.sleep(0.01)
        return True
"""


def test_readiness_follows_the_models_from_the_first_answer_on(tmp_path: Path) -> None:
    home = write_model(tmp_path, "m", "models.WaitsForAFile", WAITS_FOR_A_FILE)
    with process(tmp_path, ready=False) as server:
        seen = {server.get("/v2/health/ready").status_code}
        wait_for(lambda: (home / "begun").exists(), "the load")
        for _ in range(10):
            seen.add(server.get("/v2/health/ready").status_code)
            seen.add(server.get("/v2/models/m/ready").status_code)
            assert server.get("/v2/health/live").status_code == 200  # though the load blocks
        assert seen == {400}
        assert index(server)["m", None]["state"] == "LOADING"
        (home / "go").touch()
        wait_for(lambda: server.get("/v2/health/ready").status_code == 200, "readiness")
        assert server.get("/v2/models/m/ready").status_code == 200
        assert server.stop() == 0


def test_a_stop_lets_calls_under_way_end(tmp_path: Path) -> None:
    write_model(tmp_path, "m", f"{MODELS}.Blocks")
    with serving(tmp_path) as server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(server.infer, "m", body(parameters={"key": "stop"}))
        wait_for(lambda: events["stop"], "the call")
        server.loop.call_soon_threadsafe(server.server._request_stop)

        def refused() -> bool:
            try:
                server.get("/v2/health/live")
            except requests.ConnectionError:
                return True
            return False

        wait_for(refused, "new connections to be refused")
        gates["stop"].release()
        assert call.result().status_code == 200
        server.thread.join(30)
        assert not server.thread.is_alive()


def test_a_server_can_be_embedded_and_stopped(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert isinstance(server.server, MLServer)
        asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop).result(10)
        server.thread.join(30)
        assert not server.thread.is_alive()
